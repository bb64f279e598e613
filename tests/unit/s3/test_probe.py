"""What a store's answer to the first upload means, before a VM is paid for: by a real server that is told."""

import http.server
import threading
from datetime import datetime, timedelta, timezone

import pytest

from provisioner.errors import Expiry, NoCredentials, NoForms, NotFound, Refused, Unreachable
from provisioner.s3 import put_slots
from provisioner.s3.probe import FormClient
from provisioner.s3.signing import Bucket, Credentials, RequestSigner

WHO = Credentials("AKIAEXAMPLE", "secret")


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers every upload alike."""

    def do_POST(self):
        """Read it, and answer."""
        self.rfile.read(int(self.headers["Content-Length"]))
        status, code, message = self.server.told
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode() if code else b""
        self.send_response(status)
        if status == 307:
            self.send_header("Location", "http://127.0.0.1:9/")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self):
        """As a form."""
        self.do_POST()

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def server():
    """A server, and its bucket."""
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    made.bucket = Bucket("b", "us-east-1", f"http://127.0.0.1:{made.server_port}/b/")
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def form(server):
    """A form for the server's bucket."""
    now = datetime.now(timezone.utc)
    ends = now + timedelta(hours=1)
    return RequestSigner(server.bucket, WHO, now).sign_prefix("p/", expires=ends, max_bytes=99)


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ((501, "", ""), NoForms),
        ((405, "", ""), NoForms),
        ((501, "NotImplemented", "A header you provided implies functionality that is not implemented"), NoForms),
        ((405, "MethodNotAllowed", "The specified method is not allowed"), NoForms),
        ((403, "NotImplemented", "no"), NoForms),
        ((400, "UnsupportedAlgorithm", ""), NoForms),
        ((403, "AccessDenied", "Access Denied"), Refused),
        ((403, "", ""), Refused),
        ((403, "AccessDenied", "Invalid according to Policy: Policy expired."), Expiry),
        ((400, "ExpiredToken", "The provided token has expired."), Expiry),
        ((403, "SignatureDoesNotMatch", "no"), NoCredentials),
        ((404, "NoSuchBucket", "no"), NotFound),
        ((307, "TemporaryRedirect", "elsewhere"), Refused),
        ((503, "SlowDown", "Reduce your rate"), Unreachable),
    ],
)
def test_each_answer_to_a_form_is_told_as_what_it_is(server, told, kind):
    """The very class of the error decides what a launch does: PUTs instead, another try, or the end."""
    server.told = told
    with pytest.raises(kind) as raised:
        FormClient().post(form(server), "launched", b"{}")
    assert type(raised.value) is kind
    assert "ignature=" not in raised.value.message


@pytest.mark.parametrize("status", [200, 201, 204])
def test_an_upload_that_is_taken_raises_nothing(server, status):
    """Each answer of success is one."""
    server.told = (status, "", "")
    FormClient().post(form(server), "launched", b"{}")


@pytest.mark.parametrize("status", [405, 501])
def test_a_put_that_is_refused_says_nothing_of_forms(server, status):
    """A store that refuses PUTs, too, is no store to go on with."""
    server.told = (status, "NotImplemented", "no")
    target = put_slots.SlotSigner(server.bucket, WHO, datetime.now(timezone.utc), timedelta(hours=1)).target(
        "p/", ["launched"]
    )
    with pytest.raises((Refused, Unreachable)) as raised:
        FormClient().post(target, "launched", b"{}")
    assert not isinstance(raised.value, NoForms)
