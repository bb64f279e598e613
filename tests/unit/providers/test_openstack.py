"""The openstack provider, through openstacksdk itself, against a small HTTP server with Keystone's and Nova's answers.

The shapes are those that the SDK's own resources read and its own test fixtures hold (openstack.tests.unit.fixtures).
It proves what the provider asks for and how it reads answers and errors; no real cloud stands behind it.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import threading
import uuid
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from provisioner import errors
from provisioner.providers.base import Order, Phase
from provisioner.providers.openstack import EXPIRES, OpenstackProvider, server_name

pytest.importorskip("openstack")
# The SDK warns of what it will drop from itself; a test of ours can't mend that.
pytestmark = pytest.mark.filterwarnings(
    "ignore::PendingDeprecationWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning"
)

IMAGE, FLAVOR = str(uuid.uuid4()), str(uuid.uuid4())


class Nova:
    """Keystone, Nova and Glance, as far as one provider goes. `fail` answers the next POST of a server."""

    def __init__(self):
        self.servers, self.bodies, self.fail = {}, [], None
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, answer, headers = cloud.answer(self.command, self.path, json.loads(body) if body else None)
                data = json.dumps(answer).encode() if answer is not None else b""
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 - as http.server wants it

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self):
        """End it."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, method, path, body):
        """Status, document and headers."""
        path, _, query = path.partition("?")
        if path.startswith("/identity"):
            return self.identity(method)
        if path in ("/compute/", "/compute/v2.1", "/compute/v2.1/"):
            version = {"id": "v2.1", "status": "CURRENT", "min_version": "2.1", "version": "2.90"}
            version["links"] = [{"rel": "self", "href": f"{self.url}/compute/v2.1/"}]
            return 200, ({"versions": [version]} if path == "/compute/" else {"version": version}), {}
        if path.startswith("/compute/v2.1/servers"):
            return self.compute(method, path.removeprefix("/compute/v2.1/servers").strip("/"), query, body)
        if path == f"/compute/v2.1/flavors/{FLAVOR}":
            return 200, {"flavor": {"id": FLAVOR, "name": "small", "vcpus": 1, "ram": 1024, "disk": 10}}, {}
        if path in ("/image/", "/image"):
            links = [{"rel": "self", "href": f"{self.url}/image/v2/"}]
            return 200, {"versions": [{"id": "v2.15", "status": "CURRENT", "links": links}]}, {}
        if path == f"/image/v2/images/{IMAGE}":
            return 200, {"id": IMAGE, "name": "debian", "status": "active"}, {}
        return 404, {"itemNotFound": {"code": 404, "message": "nothing here"}}, {}

    def identity(self, method):
        """A token and a catalog, or the versions."""
        if method == "GET":
            links = [{"rel": "self", "href": f"{self.url}/identity/v3/"}]
            return 200, {"version": {"id": "v3.14", "status": "stable", "links": links}}, {}
        ends = (datetime.now(timezone.utc) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
        place = {"interface": "public", "region": "RegionOne", "region_id": "RegionOne", "id": "1"}
        catalog = [
            {
                "type": "compute",
                "name": "nova",
                "id": "a",
                "endpoints": [{**place, "url": f"{self.url}/compute/v2.1/"}],
            },
            {
                "type": "identity",
                "name": "keystone",
                "id": "b",
                "endpoints": [{**place, "url": f"{self.url}/identity/v3/"}],
            },
        ]
        catalog.append(
            {"type": "image", "name": "glance", "id": "c", "endpoints": [{**place, "url": f"{self.url}/image/"}]}
        )
        token = {
            "expires_at": ends,
            "issued_at": ends,
            "methods": ["password"],
            "user": {"id": "u", "name": "operator", "domain": {"id": "default", "name": "Default"}},
            "project": {"id": "p", "name": "demo", "domain": {"id": "default", "name": "Default"}},
            "roles": [{"id": "r", "name": "member"}],
            "catalog": catalog,
        }
        return 201, {"token": token}, {"X-Subject-Token": "t0ken"}

    def compute(self, method, rest, query, body):
        """Servers: list, create, delete, console."""
        if method == "POST" and not rest:
            if self.fail:
                return self.fail
            self.bodies.append(body["server"])
            made = {
                "id": str(uuid.uuid4()),
                "name": body["server"]["name"],
                "status": "ACTIVE",
                "created": "2026-11-23T20:00:00Z",
                "metadata": body["server"]["metadata"],
            }
            self.servers[made["id"]] = made
            return 202, {"server": made}, {}
        if method == "POST":
            return 200, {"output": "hello from the console"}, {}
        if method == "DELETE":
            gone = self.servers.pop(rest, None)
            return (204, None, {}) if gone else (404, {"itemNotFound": {"code": 404, "message": "no such server"}}, {})
        if "marker=" in query:
            return 200, {"servers": []}, {}
        name = next((part[5:] for part in query.split("&") if part.startswith("name=")), "")
        name = name.replace("%5E", "").replace("%24", "").strip("^$")
        return 200, {"servers": [each for each in self.servers.values() if name in each["name"]]}, {}


@pytest.fixture
def nova(monkeypatch):
    """A cloud, and credentials for it in the environment."""
    cloud = Nova()
    for name, value in {
        "AUTH_URL": f"{cloud.url}/identity/v3",
        "USERNAME": "operator",
        "PASSWORD": "pa55word",
        "PROJECT_NAME": "demo",
        "USER_DOMAIN_ID": "default",
        "PROJECT_DOMAIN_ID": "default",
        "REGION_NAME": "RegionOne",
    }.items():
        monkeypatch.setenv(f"OS_{name}", value)
    yield cloud
    cloud.close()


def order(token="a1b2", **options):
    """An order as the launch makes it."""
    soon = datetime.now(timezone.utc) + timedelta(hours=1)
    return Order("job-1", ("3",), 1, token, soon, b"#cloud-config\n", {"image": IMAGE, "flavor": FLAVOR, **options})


def test_choices_are_flavors_by_zones(nova):
    """Names become ids, and zones multiply flavors."""
    found = OpenstackProvider({}).choices({"image": IMAGE, "type": (FLAVOR,), "zones": ("north", "south")})
    assert nova.bodies == []
    assert [choice.name for choice in found] == [f"{FLAVOR} in north", f"{FLAVOR} in south"]
    assert found[0].options == {"image": IMAGE, "flavor": FLAVOR, "zone": "north"}


def test_what_a_job_leaves_out_is_named(nova):
    """An image and a type are needed, and an order is for one task; nothing is asked of the cloud for either."""
    provider = OpenstackProvider({})
    with pytest.raises(errors.BadInput, match=r"needs vm\.image and vm\.type"):
        provider.choices({})
    with pytest.raises(errors.BadInput, match="one task per launch"):
        provider.launch(dataclasses.replace(order(), tasks=("1", "2")))
    assert nova.bodies == []


def test_doctor_says_what_is_there(nova):
    """Image and flavors by name, or the cloud's own refusal with what to correct."""
    asked = {"image": IMAGE, "type": (FLAVOR,), "key": "mine", "security_groups": ("web",)}
    (good, *_) = OpenstackProvider({}).checks(asked, 1)
    assert good.good
    assert FLAVOR in good.text
    (bad,) = OpenstackProvider({}).checks({**asked, "image": "nowhere"}, 1)
    assert not bad.good
    assert "could not find the image" in bad.text
    assert "vm.image" in bad.hint


def test_key_and_groups_reach_the_server(nova):
    """They come in the shape that Nova has for them."""
    (choice,) = OpenstackProvider({}).choices(
        {"image": IMAGE, "type": (FLAVOR,), "key": "mine", "security_groups": ("web", "db")}
    )
    OpenstackProvider({}).launch(order(**choice.options))
    (sent,) = nova.bodies
    assert sent["key_name"] == "mine"
    assert sent["security_groups"] == [{"name": "web"}, {"name": "db"}]


def test_a_server_that_others_changed_is_still_found(nova):
    """Metadata that was written by somebody else costs the expiry alone."""
    provider = OpenstackProvider({})
    (made,) = provider.launch(order())
    nova.servers[made.id]["metadata"][EXPIRES] = "soon"
    (found,) = provider.list_resources()
    assert (found.id, found.job, found.expires) == (made.id, "job-1", None)


def test_an_order_makes_one_server(nova):
    """The same order twice is one server, by another provider object too; its metadata says whose it is."""
    first = OpenstackProvider({}).launch(order(zone="north"))
    assert OpenstackProvider({}).launch(order(zone="north")) == first
    (sent,) = nova.bodies
    assert sent["name"] == server_name(order())
    assert base64.b64decode(sent["user_data"]) == b"#cloud-config\n"
    assert sent["availability_zone"] == "north"
    assert (sent["imageRef"], sent["flavorRef"]) == (IMAGE, FLAVOR)
    assert sent["metadata"]["freepost_task"] == "3"


def test_its_life_can_be_followed_and_ended(nova):
    """States, the console, what is left over, and deletion, which is safe to repeat."""
    provider = OpenstackProvider({})
    (made,) = provider.launch(order())
    assert provider.state([made])[made.id].phase is Phase.RUNNING
    assert provider.console(made) == b"hello from the console"
    assert [each.id for each in provider.list_instances("job-1")] == [made.id]
    nova.servers[made.id].update(status="ERROR", fault={"code": 500, "message": "No valid host was found."})
    state = provider.state([made])[made.id]
    assert state.phase is Phase.GONE
    assert "No valid host" in state.reason
    provider.remove_resources(provider.list_resources())
    provider.terminate([made])
    assert nova.servers == {}
    assert provider.state([made])[made.id].phase is Phase.GONE


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (403, "Quota exceeded for cores: Requested 1, but already used 10 of 10 cores", errors.OverQuota),
        (403, "Policy doesn't allow os_compute_api:servers:create to be performed.", errors.Refused),
        (400, "Invalid imageRef provided.", errors.BadInput),
        (429, "slow down", errors.Throttled),
        (500, "Unexpected API Error.", errors.Unreachable),
    ],
)
def test_errors_have_their_classes(nova, status, message, kind):
    """Nova's own error documents become ours, with the token nowhere."""
    nova.fail = status, {"error": {"code": status, "message": message}}, {}
    with pytest.raises(kind) as caught:
        OpenstackProvider({}).launch(order())
    assert "t0ken" not in str(caught.value)


def test_a_wrong_password_is_said(nova):
    """Keystone's 401 is NoCredentials."""
    right = nova.identity
    wrong = (401, {"error": {"code": 401, "message": "unauthorized", "title": "Unauthorized"}}, {})
    nova.identity = lambda method: right(method) if method == "GET" else wrong
    with pytest.raises(errors.NoCredentials):
        OpenstackProvider({}).launch(order())
