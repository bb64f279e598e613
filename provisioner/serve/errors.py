"""The answers of the service that are no signatures: ``{"error", "message", "hint"}``, whatever went wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from provisioner.errors import BadInput, Expiry, FreepostError, Refused

MAX_BODY = 64 << 10
_Failure = TypeVar("_Failure", bound=Exception)
_STATUS = {BadInput: 400, Refused: 403, Expiry: 403}
_WORDS = {400: "bad request", 401: "no token", 403: "refused", 404: "not found", 405: "method not allowed"}
_WORDS |= {413: "too large", 422: "bad request", 429: "too many requests", 503: "unavailable"}


class HttpProblem(Exception):
    """An answer that is no signature."""

    def __init__(self, status: int, message: str, hint: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.hint, self.headers = status, message, hint, headers or {}


def slow_down(wait: float) -> HttpProblem:
    """The answer to who asks too often; `wait` is in seconds."""
    return HttpProblem(429, "too many requests", "slow down", {"Retry-After": str(int(wait) + 1)})


def install(app: FastAPI) -> None:
    """Make `app` answer every failure in one shape, and refuse large bodies."""
    app.add_middleware(SmallBodies)
    _handle(app, HttpProblem, lambda error: respond(error.status, error.message, error.hint, error.headers))
    _handle(app, FreepostError, lambda error: respond(_STATUS.get(type(error), 503), error.message, error.hint))
    _handle(app, RequestValidationError, _invalid_body)
    _handle(
        app,
        HTTPException,
        lambda error: respond(error.status_code, str(error.detail), headers=dict(error.headers or {})),
    )
    _handle(app, OSError, _unreadable_files)


def _handle(app: FastAPI, kind: type[_Failure], answer: Callable[[_Failure], JSONResponse]) -> None:
    """Register the answer to one kind of exception."""

    async def handler(_: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, kind):
            raise error
        return answer(error)

    app.add_exception_handler(kind, handler)


def respond(status: int, message: str, hint: str = "", headers: dict[str, str] | None = None) -> JSONResponse:
    """Make the answer that tells of a problem."""
    body = {"error": _WORDS.get(status, "error"), "message": message, "hint": hint}
    return JSONResponse(body, status, headers)


def _invalid_body(error: RequestValidationError) -> JSONResponse:
    """Say where the body is wrong, and quote none of it: it may not even be text."""
    faults = [f"{'.'.join(str(part) for part in each['loc'][:3])[:80]}: {each['type']}" for each in error.errors()[:5]]
    return respond(422, f"the body is not as the OpenAPI document says: {'; '.join(faults)!a}")


def _unreadable_files(error: OSError) -> JSONResponse:
    """The service's own files can't be read: sign nothing."""
    return respond(503, f"the service can't read its own files: {type(error).__name__}", "tell its operator")


class SmallBodies:
    """Reads a request's body before the application does, and answers 413 to one that is too large."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_BODY:
                await respond(413, f"a body has at most {MAX_BODY} bytes")(scope, receive, send)
                return
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)
