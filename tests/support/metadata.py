"""A real HTTP server that answers as IMDSv2 does: to whoever shows the token that it gave, what it has."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """The part of IMDSv2 that the agent knows."""

    def answer(self, status, text=""):
        """Send an answer."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self):
        """Give a token."""
        if self.server.broken:
            return self.answer(500)
        good = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        return self.answer(200, "the-token") if good else self.answer(400)

    def do_GET(self):
        """Tell."""
        self.server.asked.append(self.path)
        said = self.server.said.get(self.path.replace("/latest/meta-data/", ""))
        if self.headers["X-aws-ec2-metadata-token"] != "the-token":
            return self.answer(401)
        return self.answer(404) if said is None else self.answer(200, said)

    def log_message(self, *_):
        """Print nothing."""


@contextmanager
def metadata(said, address=("127.0.0.1", 0)):
    """A server: `said` by path, `asked` the paths so far, `host` where it listens; `broken` makes it answer 500."""
    with ThreadingHTTPServer(address, Handler) as server:
        server.said, server.asked, server.broken = said, [], False
        server.host = f"{address[0]}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
