"""TLS with a CA of one's own, a proxy, and what replies may look like."""

import io
import select
import shutil
import socket
import ssl
import subprocess
import threading

import pytest

from agent import retry, tls
from agent.errors import TransferError
from agent.form_upload import FormUploader
from agent.http import FileSlice, HttpConnection
from agent.upload import send
from tests.support.broken_store import BrokenStore
from tests.support.grants import fake_grant


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that only SSL_CERT_FILE makes good."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(
        [*make.split(), "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True
    )
    return folder


@pytest.fixture
def secure(certificate, monkeypatch):
    """A store that speaks TLS on localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    monkeypatch.setattr(retry, "WAIT", 0.001)
    monkeypatch.setattr(tls, "context", None)  # of another test, with other authorities
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with BrokenStore() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.ended.set()
        server.shutdown()
        thread.join()


def target(server):
    return fake_grant(f"https://localhost:{server.server_port}/").outputs


def test_tls_trusts_the_systems_authorities(secure, certificate, monkeypatch):
    """A form goes over TLS when its certificate is trusted, large bodies too."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    send(target(secure), "small", b"x")
    sender = FormUploader(target(secure))
    with open(certificate / "key.pem", "rb", 0) as file:
        sender.post("file", FileSlice(file.fileno(), 10, 500))
        sender.post("again", FileSlice(file.fileno(), 0, 20))
    sender.close()
    key = (certificate / "key.pem").read_bytes()
    prefix = "job/out/0/1/"
    assert secure.objects == {prefix + "small": b"x", prefix + "file": key[10:510], prefix + "again": key[:20]}


def test_tls_refuses_a_stranger(secure):
    """A certificate that nobody vouches for ends the attempt for good, before a byte of the form is sent."""
    with pytest.raises(TransferError, match="CERTIFICATE") as caught:
        send(target(secure), "small", b"x")
    assert (caught.value.exit, caught.value.permanent, secure.requests) == (7, True, 0)


class Proxy:
    """An HTTP proxy that knows CONNECT alone, on loopback."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.heads = []
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        """Serve one connection."""
        client, _ = self.socket.accept()
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        self.heads.append(head.decode())
        host, port = head.split()[1].decode().split(":")
        with client, socket.create_connection((host, int(port))) as store:
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                for ready in select.select([client, store], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    (store if ready is client else client).sendall(data)

    def close(self):
        """Stop."""
        self.thread.join()
        self.socket.close()


def test_a_proxy_is_used_for_tls(secure, certificate, monkeypatch):
    """HTTPS_PROXY, with its login, carries the connection."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    proxy = Proxy()
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:word@127.0.0.1:{proxy.socket.getsockname()[1]}")
    send(target(secure), "small", b"x")
    proxy.close()
    assert proxy.heads[0].startswith(f"CONNECT localhost:{secure.server_port} HTTP/1")
    assert "Proxy-Authorization: Basic bWU6d29yZA==" in proxy.heads[0]
    assert secure.requests == 1


def test_no_proxy_is_honoured(secure, certificate, monkeypatch):
    """A host that NO_PROXY names is reached directly."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "localhost")
    send(target(secure), "small", b"x")
    assert secure.requests == 1


@pytest.mark.parametrize(
    ("reply", "status", "body"),
    [
        (b"HTTP/1.1 204 No Content\r\nETag: x\r\n\r\n", 204, b""),
        (b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 3\r\n\r\nabc", 200, b"abc"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (
            b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            403,
            b"abc0123456789",
        ),
        (b"HTTP/1.0 500 Oops\r\n\r\nuntil the end", 500, b"until the end"),
        (b"HTTP/1.1 201\r\nContent-Length: 0\r\n\r\n", 201, b""),
    ],
    ids=["204", "length", "100", "chunked", "until close", "no reason"],
)
def test_replies(reply, status, body):
    """Every form of reply that HTTP/1.1 allows is read."""
    wire = HttpConnection("http://localhost")
    wire.replies = io.BytesIO(reply)
    found, _, content = wire.reply(None)
    assert (found, content) == (status, body)


@pytest.mark.parametrize(
    ("url", "where", "head"),
    [
        ("http://host", ("", "host", ""), " / HTTP/1.1\r\nHost: host\r\n"),
        ("https://host:444/b/", ("s", "host", "444"), " /b/ HTTP/1.1\r\nHost: host:444\r\n"),
        ("http://[::1]:80/x?y=z", ("", "[::1]", "80"), " /x?y=z HTTP/1.1\r\nHost: [::1]:80\r\n"),
    ],
)
def test_urls(url, where, head):
    """A URL is taken apart into what a connection and what a request needs."""
    wire = HttpConnection(url)
    assert (tuple(wire.where), wire.head) == (where, head)
    assert wire.port == int(where[2] or {"s": 443, "": 80}[where[0]])
