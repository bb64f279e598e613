"""A store that is broken as it is told to be, on loopback."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import socket
import struct
import sys
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """One connection to the broken store."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        """Say nothing."""

    def do_POST(self):
        """Take a form, or spoil it as the next fault says."""
        store, left = self.server, int(self.headers["Content-Length"])
        fault = store.next_fault(self)
        if fault == "refuse early":
            self.answer(403, b"<Error><Code>EntityTooLarge</Code><Message>too large</Message></Error>", close=True)
            return
        if fault == "reset":
            self.rfile.read(left // 2)
            self.hang_up(reset=True)
            return
        body = self.rfile.read(left)
        key, data, sha = take_apart(body)
        store.posts.append(key)
        if fault == "stall":
            store.ended.wait(20)
            self.hang_up()
            return
        if isinstance(fault, tuple):
            self.answer(*fault)
            return
        if sha and base64.b64encode(hashlib.sha256(data).digest()).decode() != sha:
            self.answer(400, b"<Error><Code>BadDigest</Code><Message>no match</Message></Error>")
            return
        store.objects[key] = data
        if fault == "lose the reply":
            self.hang_up()
            return
        if fault == "garbage":
            self.wfile.write(b"\x00\x01 nonsense\r\n\r\n")
            self.hang_up()
            return
        self.answer(204, etag=hashlib.md5(data).hexdigest() if fault != "wrong etag" else "0" * 32)
        if fault == "close after":
            self.hang_up()

    def do_GET(self):
        """Give a range of an object."""
        fault = self.server.next_fault(self)
        data = self.server.objects[self.path.split("?")[0].lstrip("/")]
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
        self.server.posts.append(f"{self.path} {first}-{last}")
        if isinstance(fault, tuple):
            self.answer(*fault)
        elif fault == "no ranges":
            self.answer(200, data)
        else:
            piece = data[first : last + 1]
            self.answer(206, piece[:100] if fault == "cut" else piece, length=len(piece))
            if fault == "cut":
                self.hang_up()

    def answer(self, status, body=b"", headers=(), *, etag=None, close=False, length=None):
        """Send a reply."""
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if etag:
            self.send_header("ETag", f'"{etag}"')
        if status != 204:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        if close:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def hang_up(self, *, reset=False):
        """Close without a word; with `reset`, by RST."""
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
        self.connection.close()


def take_apart(body):
    """Return (key, file, checksum field) of a form: the file is last, as S3 wants it."""
    boundary = body[: body.index(b"\r\n")]
    pieces = body.split(boundary + b"\r\n")[1:]
    head, _, rest = pieces[-1].partition(b"\r\n\r\n")
    assert b'name="file"' in head, "the file is not the last field"
    fields = {}
    for piece in pieces[:-1]:
        name, _, value = piece.partition(b"\r\n\r\n")
        fields[re.search(rb'name="([^"]*)"', name)[1].decode()] = value[:-2].decode()
    end = b"\r\n" + boundary + b"--\r\n"
    assert rest.endswith(end), "the form does not end in its boundary"
    return fields["key"], rest[: -len(end)], fields.get("x-amz-checksum-sha256")


class BrokenStore(ThreadingHTTPServer):
    """A real HTTP server on loopback. `faults` are spent one a request; `always` is what follows them.

    `posts` has the key of each form whose body was read to its end, `requests` counts all, `connections` too.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.objects, self.posts, self.faults, self.always = {}, [], deque(), None
        self.requests = self.connections = 0
        self.ended, self.lock = threading.Event(), threading.Lock()

    @property
    def url(self):
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}/"

    def next_fault(self, _):
        """Count a request and return the fault it meets."""
        with self.lock:
            self.requests += 1
            return self.faults.popleft() if self.faults else self.always

    def process_request(self, request, client_address):
        """Count a connection."""
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request, client_address):
        """Let clients hang up."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def broken_store(port=0):
    """Run a BrokenStore while the block runs."""
    with BrokenStore(port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()
