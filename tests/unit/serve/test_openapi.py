"""The signing service against its own OpenAPI document, by schemathesis: no 5xx, and nothing signed outside a token."""

import base64
import json
from collections import Counter
from datetime import datetime, timedelta, timezone
from urllib.parse import unquote, urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agent.grant import conditions
from provisioner.s3.signing import Bucket, Credentials
from provisioner.serve import token
from provisioner.serve.app import Service, make_app
from provisioner.serve.key_store import RevokedTokens
from provisioner.serve.rate import Limiter
from provisioner.serve.signing import SigningService

KEY = b"k" * 32
PREFIX = "p/job/"
LIMIT = 100_000
MANY = 10_000
NASTY = ["../", "..", "//", "%2e%2e/", "%252e%252e%252f", "\\..\\", "\uff0e\uff0e/", ".", "/", "\u0338", "other/", "x"]


@pytest.fixture
def app(tmp_path):
    """The service for bucket bkt, as it is served."""
    signing = SigningService(
        Bucket("bkt", "us-east-1", "http://127.0.0.1:9/bkt/"),
        "",
        lambda: Credentials("AK", "secret"),
        lambda: datetime.now(timezone.utc),
        timedelta(hours=12),
    )
    return make_app(
        Service(signing, KEY, RevokedTokens(tmp_path / "revoked"), Limiter(1e9, 10**9, float), lambda _: None)
    )


@pytest.fixture
def bearer():
    """A token for PREFIX, all methods, LIMIT bytes, one hour."""
    ends = int(datetime.now(timezone.utc).timestamp()) + 3600
    return token.mint(KEY, "0" * 16, "bkt", token.Limits([PREFIX], token.METHODS, LIMIT, ends))


def signed(found):
    """Every key or prefix that an answer carries a signature for, and the size that each allows."""
    urls = [found["url"]] if "X-Amz-Signature" in str(found.get("url")) else []
    for url in [*urls, *(item["url"] for item in found.get("urls", ()))]:
        yield unquote(urlsplit(url).path).removeprefix("/bkt/"), int(found.get("headers", {}).get("content-length", 0))
    policies = [found[name]["policy"] for name in ("outputs", "status") if isinstance(found.get(name), dict)]
    if "fields" in found:
        policies.append(base64.b64decode(found["fields"]["policy"]).decode())
    for policy in policies:
        rules = conditions(policy)
        (bound,) = [value for _, name, value in rules if name == "key"]
        (largest,) = [value[1] for kind, _, value in rules if kind == "content-length-range"]
        yield bound, largest


def hold(answer, tally):
    """Hold an answer to what the token allows."""
    assert answer.status_code < 500
    tally[answer.status_code] += 1
    if answer.status_code == 200:
        for key, size in signed(answer.json()):
            tally["signed"] += 1
            assert key.startswith(PREFIX)
            assert not {"", ".", ".."} & set(key.removesuffix("/").split("/"))
            assert size <= LIMIT


def nearer(body, where):
    """Half of what is generated is moved below the prefix, with something nasty after it: else all is refused alike."""
    if isinstance(body, dict):
        for name in ("key", "prefix"):
            if isinstance(body.get(name), str):
                body[name] = where + body[name]
        if isinstance(body.get("keys"), list):
            body["keys"] = [where + each if isinstance(each, str) else each for each in body["keys"]]
    return body


def fuzz(app, bearer, rounds):
    """Send `rounds` generated requests to each operation, and tally the answers."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    tally = Counter()
    for result in schema.get_all_operations():
        fuzz_one(result.ok(), bearer, rounds, tally)
    return tally


def fuzz_one(operation, bearer, rounds, tally):
    """Send `rounds` generated requests to one operation."""

    @settings(
        max_examples=rounds,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(), st.sampled_from(["", PREFIX]), st.lists(st.sampled_from(NASTY), max_size=3))
    def ask(case, where, nasty):
        case.body = nearer(case.body, where + "".join(nasty))
        hold(case.call(headers={"Authorization": f"Bearer {bearer}"}), tally)
        tally[operation.method] += 1

    ask()


@pytest.mark.e2e
def test_nothing_is_signed_outside_the_token(app, bearer):
    """A few hundred generated requests: no 5xx, no signature outside the prefix or over the size."""
    tally = fuzz(app, bearer, 50)
    assert tally["signed"] > 20
    assert tally[400] + tally[403] + tally[422] > 20


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_nothing_is_signed_outside_the_token_in_ten_thousand_requests(app, bearer):
    """The same, at least 10,000 times."""
    tally = fuzz(app, bearer, MANY // 4)
    print("signing service:", json.dumps({str(name): count for name, count in tally.items()}))  # noqa: T201 - the figure
    assert tally["post"] >= MANY
    assert tally["signed"] > MANY // 20  # or it would prove nothing


TEXTS = st.text(st.characters(), max_size=8)  # lone surrogates, too
ODD = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.lists(TEXTS, max_size=2)
LINKS = st.fixed_dictionaries(
    {},
    optional={
        "prefixes": ODD | st.lists(st.builds(lambda text: f"{PREFIX}{text}/", TEXTS), min_size=1, max_size=3),
        "methods": ODD | st.lists(st.sampled_from([*token.METHODS, "DELETE"]), max_size=3),
        "max_bytes": st.integers(0) | st.floats() | ODD,
        "expires": ODD | st.datetimes().map("{:%Y-%m-%dT%H:%M:%SZ}".format) | st.just("2099-01-01T00:00:00Z"),
    },
)


@pytest.mark.e2e
@settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINKS, min_size=1, max_size=2))
def test_no_link_that_a_bearer_adds_breaks_the_service(app, bearer, links):
    """Whatever JSON is chained to a token, each answer is a signature inside the token or a refusal."""
    *rest, tag = bearer.split(".")
    tag = token._decode(tag)
    for link in links:
        rest.append(token._encode(json.dumps(link).encode()))
        tag = token._tag(tag, rest[-1])
    headers = {"Authorization": "Bearer " + ".".join([*rest, token._encode(tag)])}
    tally = Counter()
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    for path, body in (("get", {"keys": [PREFIX + "k"]}), ("put", {"key": PREFIX + "k", "size": 1}), ("grant", {})):
        hold(schema[f"/v1/{path}"]["POST"].Case(body=body, media_type="application/json").call(headers=headers), tally)
    shown = schema["/v1/token"]["GET"].Case().call(headers=headers)
    assert shown.status_code in {200, 401}
    if shown.status_code == 200:
        assert all(prefix.startswith(PREFIX) for prefix in shown.json()["prefixes"])
        assert 0 <= shown.json()["max_bytes"] <= LIMIT


@pytest.mark.parametrize("checked", ["not_a_server_error", "status_code_conformance", "response_schema_conformance"])
def test_the_answers_are_as_the_document_says(app, bearer, checked):
    """Status, type and shape of every answer are in the OpenAPI document."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    check = getattr(schemathesis.checks, checked, None) or schemathesis.CHECKS.get_one(checked)
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy())
        def ask(case):
            answer = case.call(headers={"Authorization": f"Bearer {bearer}"})
            case.validate_response(answer, checks=[check])

        ask()
