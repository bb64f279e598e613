"""A member of a group learns from the metadata service which one it is, or posts nothing."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agent import grant as grants
from agent import group
from agent.grant import Grant, Target

POLICY = '{"expiration": "2026-11-23T21:00:00Z", "conditions": [["starts-with", "$key", "p/j/out/"]]}'


@pytest.fixture
def metadata():
    """A server that answers as IMDSv2 does: a token first, then the index, of `server.index`, to whoever shows it."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status, text):
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_PUT(self):
            good = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            self.answer(200 if good else 400, "the-token" if good else "")

        def do_GET(self):
            good = self.path == "/latest/meta-data/ami-launch-index"
            good = good and self.headers["X-aws-ec2-metadata-token"] == "the-token"
            self.answer(200 if good else 401, self.server.index if good else "")

        def log_message(self, *_):
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.index = "2"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def shared(tmp_path):
    """The grant of a group of tasks 8 to 11, in a file."""
    outputs = Target("http://127.0.0.1/b/", "p/j/out/{task}/1/", POLICY, {})
    status = Target("http://127.0.0.1/b/", "p/j/status/{task}/1/", POLICY, {})
    path = tmp_path / "grant.json"
    path.write_text(grants.dump(Grant("j", "8-11", 1, 1795467600, outputs, status, [], None)))
    return path


def host(server):
    """Where it listens."""
    return f"127.0.0.1:{server.server_address[1]}"


def test_the_grant_becomes_the_members_own(metadata, tmp_path):
    """The third VM of tasks 8 to 11 is task 10; its grant says so from then on, and is closed to others."""
    path = shared(tmp_path)
    group.join(str(path), host(metadata))
    mine = grants.parse(path.read_text())
    assert (mine.task, mine.outputs.prefix, mine.status.prefix) == ("10", "p/j/out/10/1/", "p/j/status/10/1/")
    assert path.stat().st_mode & 0o777 == 0o400
    metadata.index = "3"
    group.join(str(path), host(metadata))
    assert grants.parse(path.read_text()).task == "10"


def test_without_an_index_nothing_is_guessed(metadata, tmp_path, monkeypatch):
    """A metadata service that refuses, and an index that the group doesn't have, leave the grant as it was."""
    monkeypatch.setattr(group, "TRIES", 1)
    path = shared(tmp_path)
    before = path.read_bytes()
    metadata.index = "4"
    with pytest.raises((OSError, ValueError, IndexError)):
        group.join(str(path), host(metadata))
    metadata.index = "nonsense"
    with pytest.raises((OSError, ValueError)):
        group.join(str(path), host(metadata))
    assert path.read_bytes() == before
