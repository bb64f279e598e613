"""A TCP proxy in front of a store that resets connections in the middle of what they carry."""

import contextlib
import select
import socket
import socketserver
import struct
import threading

RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: a close is a reset


class _Carry(socketserver.BaseRequestHandler):
    def handle(self):
        """Carry one connection, until an end closes or it has carried what it is reset after."""
        with socket.create_connection(self.server.store) as store:
            other = {self.request: store, store: self.request}
            carried = {self.request: 0, store: 0}
            while True:
                for ready in select.select(list(other), [], [])[0]:
                    data = ready.recv(65_536)
                    carried[ready] += len(data)
                    if not data:
                        return
                    if ready is self.request:
                        self.server.sent += data[:4_096]
                    if self.server.cuts(up=carried[self.request], down=carried[store]):
                        for end in other:
                            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                        return
                    other[ready].sendall(data)


class _Proxy(socketserver.ThreadingTCPServer):
    def __init__(self, store, times, after):
        super().__init__(("127.0.0.1", 0), _Carry)
        self.url = "http://{}:{}".format(*self.server_address)
        self.store, self.times, self.after = store, times, after
        self.resets, self.sent = 0, b""
        self.lock, self.clients = threading.Lock(), []

    def cuts(self, **carried):
        """Tell whether a connection that has carried this much is to be reset now."""
        with self.lock:
            if self.resets == self.times or any(carried[way] < count for way, count in self.after.items()):
                return False
            self.resets += 1
            return True

    def get_request(self):
        """Accept a connection, to be closed with the proxy if its client keeps it."""
        client, address = super().get_request()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)  # a reset takes away what was not sent yet
        self.clients.append(client)
        return client, address

    def shutdown_request(self, request):
        """Close without a farewell, which would keep a reset from being one."""
        request.close()

    def handle_error(self, request, address):
        """Say nothing: an end that a reset surprises is what this is for."""


@contextlib.contextmanager
def resetting(endpoint_url, *, times=1, **after):
    """Give a proxy of the store at `endpoint_url`: `url`, `resets` so far, and `sent`, the starts of what clients sent.

    The first `times` connections that have carried so many bytes `up` or `down` are reset.
    """
    host, port = endpoint_url.removeprefix("http://").split(":")
    with _Proxy((host, int(port)), times, after) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            for client in server.clients:
                with contextlib.suppress(OSError):  # closed already
                    client.shutdown(socket.SHUT_RDWR)
