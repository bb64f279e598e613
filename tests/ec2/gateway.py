"""A real HTTP server in front of moto's: counts EC2's calls, injects errors in EC2's own shape, keeps client tokens.

moto ignores ClientToken. With `tokens` the gateway does, for each call that starts or prepares a VM, what AWS documents
("Ensuring idempotency in Amazon EC2 API requests"): the same token and parameters answer as before, and with others it
is an IdempotentParameterMismatch.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter, deque
from contextlib import nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

# As AWS documents it ("Error codes for the Amazon EC2 API"), and as botocore's EC2 parser reads it.
ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message>'
    "</Error></Errors><RequestID>ea966190-f9aa-478e-9ede-example</RequestID></Response>"
)
# The same of AWS's query protocol, which STS speaks.
QUERY_ERROR = (
    "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
)
# An instant fleet that got nothing: 200, with the error of each choice ("CreateFleet", Response Elements).
EMPTY_FLEET = (
    '<CreateFleetResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>1</requestId>'
    "<fleetId>fleet-1</fleetId><errorSet><item><errorCode>{code}</errorCode><errorMessage>none left</errorMessage>"
    "<lifecycle>on-demand</lifecycle></item></errorSet><fleetInstanceSet/></CreateFleetResponse>"
)
TOKENED = ("RunInstances", "CreateFleet", "CreateLaunchTemplate")
STS_VERSION = "2011-06-15"


@dataclass
class Fault:
    """What happens to one call. `lost`: EC2 does it, and no answer arrives. `body`: what it answers, with 200."""

    code: str = ""
    message: str = "injected"
    status: int = 400
    lost: bool = False
    body: str = ""


@dataclass
class Gateway:
    """The server's address, what it saw, and what it is to do."""

    moto: tuple[str, int]
    tokens: bool = True
    eager: frozenset = frozenset()  # the actions that ignore DryRun, as a cloud does that doesn't know it
    calls: Counter = field(default_factory=Counter)
    bodies: list = field(default_factory=list)
    faults: dict = field(default_factory=dict)
    pages: list = field(default_factory=list)  # what a proxy answers in EC2's stead
    answers: dict = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self):
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                gateway.handle(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            do_GET = do_POST  # noqa: N815 - as http.server wants it

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):  # a client that was killed
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def inject(self, action, *faults):
        """Let the next calls of `action` fail, one after the other."""
        self.faults.setdefault(action, deque()).extend(faults)

    def handle(self, request, body):
        """Note a call, and let it fail, be answered from memory, or reach moto."""
        form = {key: values[0] for key, values in parse_qs(body.decode("latin-1")).items()}
        action = form.get("Action") or request.headers.get("X-Amz-Target", "?").rpartition(".")[2]
        if action in self.eager:
            body = body.replace(b"DryRun=true", b"DryRun=false")
        token = (action, form["ClientToken"]) if self.tokens and action in TOKENED and "ClientToken" in form else None
        same = tuple(sorted(item for item in form.items() if item[0] != "ClientToken"))
        with self.lock:
            self.calls[action] += 1
            self.bodies.append(form)
            fault = self.faults[action].popleft() if self.faults.get(action) else None
        if self.pages:
            return self.answer(request, 200, "text/html", self.pages.pop())
        if fault and not fault.lost and not fault.body:
            return self.answer(request, fault.status, *self.error(request, form, fault))
        with self.lock if token else nullcontext():  # a token's second request waits for the first
            status, kind, data = self.remembered(token, same) or self.made(request, body, fault)
            if token and status == 200:
                self.answers[token] = same, (status, kind, data)
        if fault and fault.lost:
            request.close_connection = True
            return request.connection.close()
        return self.answer(request, status, kind, data)

    def error(self, request, form, fault):
        """A fault in the shape of the service that is asked: its content type and its text."""
        if "X-Amz-Target" in request.headers:  # SSM and Service Quotas
            text = json.dumps({"__type": fault.code, "message": fault.message})
            return "application/x-amz-json-1.1", text.encode()
        shape = QUERY_ERROR if form.get("Version") == STS_VERSION else ERROR
        return "text/xml;charset=UTF-8", shape.format(code=fault.code, message=fault.message).encode()

    def remembered(self, token, same):
        """The answer to a token that was seen before; None for a new one."""
        if token not in self.answers:
            return None
        before, answer = self.answers[token]
        if before == same:
            return answer
        text = ERROR.format(code="IdempotentParameterMismatch", message="Arguments on this idempotent request differ.")
        return 400, "text/xml;charset=UTF-8", text.encode()

    def made(self, request, body, fault):
        """A fresh answer: the fault's own, or moto's."""
        if fault and fault.body:
            return 200, "text/xml;charset=UTF-8", fault.body.encode()
        return self.forward(request, body)

    def forward(self, request, body):
        """Ask moto."""
        connection = http.client.HTTPConnection(*self.moto, timeout=60)
        try:
            headers = {
                key: value
                for key, value in request.headers.items()
                if key.lower() not in ("connection", "content-length")
            }
            connection.request(request.command, request.path, body, headers)
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type", ""), response.read()
        finally:
            connection.close()

    def answer(self, request, status, kind, data):
        """Send an answer."""
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)
