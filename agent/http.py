"""HTTP/1.1 over one kept-alive connection, and what is sent over it: bytes, or a FileSlice.

A large file is never copied into memory. TLS is in `agent.tls`. Requests are written and replies read here:
http.client's imports and its e-mail parser cost more than all else that a small file costs. Every failure is a
TransferError, and no text of this module holds a policy, signature, key, token or query.
"""

import os
import re
import socket
import struct

from agent.errors import FileChanged, TransferError

CONNECT, STALL = 10, 30  # seconds: to connect; without a byte of progress, which ends an attempt
BLOCK = 1 << 16  # bytes read and sent at once, and so in the memory of each worker


class FileSlice:
    """`size` bytes of the open file `fd` from `offset` on. Like bytes it has a length."""

    def __init__(self, fd, offset, size):
        self.fd, self.offset, self.size = fd, offset, size

    def __len__(self):
        return self.size


def blocks(data):
    """Yield what is to be sent, a block at a time; bytes in one. Raise FileChanged when a file has fewer."""
    if not isinstance(data, FileSlice):
        yield data
        return
    offset, end = data.offset, data.offset + data.size
    while offset < end:
        block = os.pread(data.fd, min(BLOCK, end - offset), offset)
        if not block:
            raise FileChanged
        yield block
        offset += len(block)


class HttpConnection:
    """A connection to the host of `url`, made when it is needed and made anew when it was lost.

    `throttle(n)` is called before each n bytes of a file; it may sleep, or raise TransferError.
    """

    stall = STALL

    def __init__(self, url, throttle=lambda count: None):
        self.throttle, self.sock, self.where = throttle, None, None
        self.set_url(url)

    def set_url(self, url):
        """Let the next request be for `url`, over the same connection where the host is the same."""
        *where, path = re.match(r"http(s?)://(\[.*?\]|[^/:?]+):?(\d*)(.*)", url).groups()
        if where != self.where:
            self.close()
        self.where = self.secure, self.host, port = where
        self.port = int(port or (443 if self.secure else 80))
        self.head = " %s HTTP/1.1\r\nHost: %s\r\n" % (path or "/", self.host + (port and ":" + port))

    def close(self):
        """Hang up."""
        if self.sock:
            self.replies.close()
            self.sock.close()
        self.sock = None

    def connect(self):
        """Connect, by TLS where the URL says https. `replies` is at first the socket, for `close` to find it."""
        host = self.host.strip("[]")
        if self.secure:
            from agent.tls import connect  # not in a VM whose store is reached without

            self.sock = self.replies = connect(host, self.port, CONNECT)
        else:
            # The name in bytes: text would take encodings.idna.
            self.sock = self.replies = socket.create_connection((host.encode(), self.port), CONNECT)
            if self.sock.getpeername()[0] in ("127.0.0.1", "::1"):
                # More on its way would have left the processor's cache by the time that the store copies it. What TLS
                # sends is in the cache, having just been encrypted.
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BLOCK)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(self.stall)
        self.replies = self.sock.makefile("rb")

    def request(self, *pieces, take=None):
        """Send a request: bytes and FileSlices. Return the reply's (status, headers, body).

        `take(status, reader, length)` reads the body of a 2xx reply. A kept-alive connection that the store has closed
        meanwhile is made anew, once, at no cost to the caller's tries.
        """
        used, trouble = self.sock, None
        try:
            if not used:
                self.connect()
            try:
                self.send(pieces)
            except ConnectionError as error:
                trouble = error  # a store may answer, and hang up, before it has read the whole body
            status, headers, body = self.reply(take)
        except TransferError:
            self.close()
            raise
        except (OSError, ValueError) as error:
            self.close()
            if used and isinstance(error, ConnectionError):
                return self.request(*pieces, take=take)
            error = trouble or error
            said = error if isinstance(error, OSError) else "that was no HTTP reply"
            # A clock that is wrong at boot is set right by NTP some seconds later.
            permanent = re.search("CERTIFICATE(?!.*(yet valid|expired))", str(error))
            raise TransferError("%s: %s" % (self.host, said), permanent=bool(permanent)) from None
        if trouble or headers.get(b"connection", b"").lower() == b"close":
            self.close()
        return status, headers, body

    def send(self, pieces):
        """Send, a block at a time: the socket's timeout is for each, so that it means no progress."""
        for piece in pieces:
            is_file = isinstance(piece, FileSlice)
            for block in blocks(self.sendfile(piece) if is_file else piece):
                if is_file:
                    self.throttle(len(block))
                left = memoryview(block)
                while left:
                    left = left[self.sock.send(left[:BLOCK]) :]

    def sendfile(self, piece):
        """Send a FileSlice by sendfile. Return what that leaves to do: all of it under TLS, and where it can't be done.

        Raise FileChanged when the file is shorter.
        """
        fd, offset, size = piece.fd, piece.offset, piece.size
        if self.secure:
            return piece
        sock = self.sock
        # It is the kernel that waits: at less cost than a poll for each block.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", self.stall, 0))
        sock.settimeout(None)
        try:
            while size:
                count = os.sendfile(sock.fileno(), fd, offset, min(size, 4 * BLOCK))
                if not count:
                    raise FileChanged
                self.throttle(count)
                offset, size = offset + count, size - count
        except BlockingIOError:
            raise socket.timeout("timed out") from None
        except OSError as error:
            if error.errno != 22:  # EINVAL: this file system has no such way
                raise
        finally:
            sock.settimeout(self.stall)
        return FileSlice(fd, offset, size)

    def reply(self, take):
        """Read a reply."""
        line = self.replies.readline(999)
        if not line:
            raise ConnectionResetError("the store hung up")
        status, headers = int(line[9:12]), {}
        for line in iter(lambda: self.replies.readline(9999).strip(), b""):
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        if status < 200:
            return self.reply(take)
        length, body = headers.get(b"content-length"), b""
        if headers.get(b"transfer-encoding"):
            for size in iter(lambda: int(self.replies.readline(99).split(b";")[0], 16), 0):
                body += self.replies.read(size)
                self.replies.readline(9)
            self.replies.readline(9)
        elif take and status < 300:
            take(status, self.replies, int(length))
        elif status != 204:
            body = self.replies.read(int(length) if length else -1)
            if len(body) < int(length or 0):
                raise ConnectionResetError("the store hung up")
        return status, headers, body
