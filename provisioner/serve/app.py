"""The service's HTTP: tokens in, signatures out. `provisioner.serve.signing` decides; this module speaks.

Every signature and every refusal is reported, without what was signed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from agent import __version__
from agent.grant import dump
from provisioner.clock import to_seconds
from provisioner.errors import FreepostError
from provisioner.output import Event, Report
from provisioner.serve import errors
from provisioner.serve.errors import HttpProblem, slow_down
from provisioner.serve.key_store import RevokedTokens
from provisioner.serve.models import (
    Form,
    GetRequest,
    GrantRequest,
    Health,
    PostRequest,
    Problem,
    PutRequest,
    Shown,
    Upload,
    Urls,
)
from provisioner.serve.rate import Limiter
from provisioner.serve.signing import Signed, SigningService
from provisioner.serve.token import Allowance, verify

MAX_LOGGED_KEYS = 20  # keys in one line of the log
_PROBLEMS: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in (400, 401, 403, 413, 422, 429, 503)}


@dataclass(frozen=True)
class Service:
    """What a service works with. `key` made its tokens."""

    signing: SigningService
    key: bytes = field(repr=False)
    revoked: RevokedTokens
    limiter: Limiter
    report: Report


def make_app(service: Service) -> FastAPI:
    """Make the service's ASGI application."""
    app = FastAPI(
        title="Freepost signing service",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would lead to whatever Host the client named
    )
    app.state.service = service
    errors.install(app)
    app.include_router(router)
    return app


def bearer(
    request: Request,
    shown: Annotated[
        HTTPAuthorizationCredentials | None,
        Depends(HTTPBearer(auto_error=False, description="A token of `provision token`.")),
    ],
) -> Allowance:
    """Return what the shown token allows. Bad ones are counted by address: guessing costs as much as a grant."""
    service: Service = request.app.state.service
    if shown is None:
        raise HttpProblem(401, "no token was shown", "Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
    try:
        return verify(service.key, shown.credentials, now=service.signing.clock(), revoked=service.revoked.ids())
    except FreepostError as error:
        wait = service.limiter.take(f"address {_client(request)}")
        if wait:
            raise slow_down(wait) from None
        service.report(_event("refused", request, None, why=error.message))  # no oftener than that, or it fills a disk
        raise HttpProblem(
            401, error.message, error.hint, {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        ) from None


Bearer = Annotated[Allowance, Depends(bearer)]
router = APIRouter()


@router.get("/v1/health", tags=["service"])
def health() -> Health:
    """Tell that the service runs."""
    return Health(status="ok")


@router.get("/v1/token", responses=_PROBLEMS, tags=["token"])
def token(who: Bearer) -> Shown:
    """Tell what the shown token allows."""
    return Shown(**who.describe())


@router.post("/v1/get", responses=_PROBLEMS, tags=["sign"])
def get(body: GetRequest, who: Bearer, request: Request) -> Urls:
    """Presign downloads."""
    made = _answer(
        request, who, len(body.keys), lambda signing: signing.get(who, body.keys, body.seconds, body.filename)
    )
    return Urls(**made)


@router.post("/v1/put", responses=_PROBLEMS, tags=["sign"])
def put(body: PutRequest, who: Bearer, request: Request) -> Upload:
    """Presign the upload of one object of a known size."""
    headers = {"content-type": body.content_type} if body.content_type else {}
    headers |= {"if-none-match": "*"} if body.no_overwrite else {}
    return Upload(
        **_answer(request, who, 1, lambda signing: signing.put(who, body.key, body.size, headers, body.seconds))
    )


@router.post("/v1/post", responses=_PROBLEMS, tags=["sign"])
def post(body: PostRequest, who: Bearer, request: Request) -> Form:
    """Sign a form."""
    made = _answer(
        request, who, 1, lambda signing: signing.post(who, body.key, body.prefix, body.max_bytes, body.seconds)
    )
    return Form(**made)


@router.post("/v1/grant", responses=_PROBLEMS, tags=["sign"], response_model=dict[str, Any])
def grant(who: Bearer, request: Request, body: GrantRequest | None = None) -> JSONResponse:
    """Sign a grant for `agent`, or renew one: the same token gets the same prefixes."""
    asked = body or GrantRequest()
    made: list[str] = []

    def sign(signing: SigningService) -> Signed:
        document, signed = signing.grant(who, asked.prefix, asked.max_bytes, asked.seconds)
        made.append(dump(document))
        return signed

    _answer(request, who, 2, sign)
    return JSONResponse(json.loads(made[0]))


def _answer(request: Request, who: Allowance, count: int, sign: Callable[[SigningService], Signed]) -> dict[str, Any]:
    """Sign, if the token hasn't asked for too much of late, and report it."""
    service: Service = request.app.state.service
    wait = service.limiter.take(f"token {who.id}", count)
    if wait:
        raise slow_down(wait)
    try:
        signed = sign(service.signing)
    except FreepostError as error:
        service.report(_event("refused", request, who, why=error.message))
        raise
    where = list(signed.where[:MAX_LOGGED_KEYS])
    service.report(_event(signed.what, request, who, keys=where, count=len(signed.where), until=signed.expires))
    return signed.body


def _client(request: Request) -> str:
    return request.client.host if request.client else "local"


def _event(what: str, request: Request, who: Allowance | None, **more: object) -> Event:
    service: Service = request.app.state.service
    data = {
        "time": to_seconds(service.signing.clock()),
        "client": _client(request),
        "token": who.id if who else None,
        **more,
    }
    return Event(what, f"{what} " + " ".join(f"{name}={value!r}" for name, value in data.items()), data)
