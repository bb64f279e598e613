"""One form, or one ranged read, at a time over one kept-alive connection.

The form's fields go first and the file last, with an exact Content-Length and no copy of a large file in memory.
TLS is by the system's CAs; HTTPS_PROXY and NO_PROXY hold. Requests are written and replies read here: http.client's
imports and its e-mail parser cost more than all else that a small file costs. Every failure is a `Failed`, told apart
by the Code and Message of S3's XML, and no text of this module holds a policy, signature, key, token or query.
"""

import os
import re
import socket
import struct
import time
from hashlib import sha256

from agent.grant import base64

CONNECT, STALL = 10, 30  # seconds: to connect; without a byte of progress, which ends an attempt
TRIES, WAIT, PATIENCE = 10, 0.5, 300  # attempts; the first pause, and all of them, in seconds
BLOCK = 1 << 16  # bytes read and sent at once, and so in the memory of each worker
BOUNDARY = os.urandom(16).hex()
FIELD = "--" + BOUNDARY + '\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
FILE = (FIELD % ('file"; filename="f', ""))[:-2].encode()
TAIL = ("\r\n--" + BOUNDARY + "--\r\n").encode()


class Failed(Exception):
    """An attempt failed; the text says why. `exit` is the exit code that it deserves.

    7 (unreachable) and 8 (damaged on its way) are worth another try, not before `wait` seconds, unless `fatal`: no
    other attempt, of any file, would fare better.
    """

    def __init__(self, text, exit=7, fatal=False, wait=0):  # noqa: A002 - it is the exit code
        Exception.__init__(self, text)
        self.exit, self.fatal, self.wait = exit, fatal, wait


class Changed(Failed):
    """The file changed while it was read."""

    def __init__(self, text="it changed while it was read"):
        Failed.__init__(self, text, 6)


def refusal(status, headers, body, late):
    """Return the Failed that a reply stands for. `late`: by our own clock the grant has expired."""
    body = body.decode("utf-8", "replace")
    code, text = ((re.findall("<%s>([^<]*)" % tag, body) or [""])[0] for tag in ("Code", "Message"))
    # AWS quotes the condition that failed: its field is told; its value, and what looks like a secret, is not.
    text = re.sub(r'", *"[^"$].*|[\w+/=%]{20,}', "…", text)
    text = "".join(filter(str.isprintable, "the store answered %d %.40s: %.200s" % (status, code, text)))
    if "xpired" in code + text or (late and status == 403):
        return Failed("the grant has expired; " + text, 4, True)
    damaged = re.search("Digest|Checksum", code)
    if (
        status < 300
        or status > 501
        or status in (408, 429, 500)
        or damaged
        or re.match("RequestTimeout$|Incompl", code)
    ):
        wait = headers.get(b"retry-after", b"")
        return Failed(text, 8 if damaged else 7, wait=min(120, int(wait)) if wait.isdigit() else 0)
    return Failed(text, 5, bool(re.search("Signature|AccessKey|NoSuchBucket|Redirect|NotImpl", code)))


class Wire:
    """A connection to the host of `url`, made when it is needed and made anew when it was lost.

    `pace(n)` is called before each n bytes of a file; it may sleep, or raise Failed.
    """

    tls, stall = None, STALL

    def __init__(self, url, pace=lambda count: None):
        self.pace, self.sock, self.where = pace, None, None
        self.aim(url)

    def aim(self, url):
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
        """Connect, through a proxy where the environment names one for TLS."""
        host = self.host.strip("[]")
        if self.secure and (os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")):
            from agent.proxy import tunnel

            self.sock = tunnel(host, self.port, CONNECT)
        else:
            self.sock = socket.create_connection((host.encode(), self.port), CONNECT)  # text would take encodings.idna
        self.replies = self.sock  # to be closed, should there be no TLS
        if self.secure:
            import ssl

            Wire.tls = self.tls or ssl.create_default_context()  # one for all: it reads every CA there is
            self.sock = self.tls.wrap_socket(self.sock, server_hostname=host)
        elif self.sock.getpeername()[0] in ("127.0.0.1", "::1"):
            # More on its way would have left the processor's cache by the time that the store copies it. What TLS sends
            # is in the cache, having just been encrypted.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BLOCK)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(self.stall)
        self.replies = self.sock.makefile("rb")

    def ask(self, *pieces, take=None):
        """Send a request: bytes, and (fd, offset, size). Return the reply's (status, headers, body).

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
        except Failed:
            self.close()
            raise
        except (OSError, ValueError) as error:
            self.close()
            if used and isinstance(error, ConnectionError):
                return self.ask(*pieces, take=take)
            error = trouble or error
            said = error if isinstance(error, OSError) else "that was no HTTP reply"
            # A clock that is wrong at boot is set right by NTP some seconds later.
            fatal = re.search("CERTIFICATE(?!.*(yet valid|expired))", str(error))
            raise Failed("%s: %s" % (self.host, said), fatal=bool(fatal)) from None
        if trouble or headers.get(b"connection", b"").lower() == b"close":
            self.close()
        return status, headers, body

    def send(self, pieces):
        """Send, a block at a time: the socket's timeout is for each, so that it means no progress."""
        for piece in pieces:
            for block in blocks(*self.splice(*piece)) if isinstance(piece, tuple) else [piece]:
                if isinstance(piece, tuple):
                    self.pace(len(block))
                left = memoryview(block)
                while left:
                    left = left[self.sock.send(left[:BLOCK]) :]

    def splice(self, fd, at, size):
        """Send a file by sendfile. Return what that leaves to do: all of it under TLS, and where it can't be done."""
        if self.secure:
            return fd, at, size
        sock = self.sock
        # It is the kernel that waits: at less cost than a poll for each block.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", self.stall, 0))
        sock.settimeout(None)
        try:
            while size:
                count = os.sendfile(sock.fileno(), fd, at, min(size, 4 * BLOCK))
                if not count:
                    raise Changed
                self.pace(count)
                at, size = at + count, size - count
        except BlockingIOError:
            raise socket.timeout("timed out") from None
        except OSError as error:
            if error.errno != 22:  # EINVAL: this file system has no such way
                raise
        finally:
            sock.settimeout(self.stall)
        return fd, at, size

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


class Sender(Wire):
    """Posts forms by one target's policy. `expires` is the grant's, in seconds since 1970."""

    def __new__(cls, target, *_, **__):
        """Make what suits the target: a store that takes no forms has slots."""
        if "slots" in target.fields:
            from agent.put_upload import Slots as cls  # noqa: N813 - it stands in this one's place
        return object.__new__(cls)

    def __init__(self, target, expires=0, **more):
        Wire.__init__(self, target.url, **more)
        self.prefix, self.expires, self.sums = target.prefix, expires, target.covers("x-amz-checksum-sha256")
        self.fixed = b"".join((FIELD % pair).encode() for pair in target.form().items())

    def post(self, name, data):
        """Store one object below the prefix in one attempt: bytes, or (fd, offset, size).

        Return {"size", "sha256", "verified"}. Raise Failed; Changed when the file has fewer bytes.
        """
        whole = not isinstance(data, tuple)
        size = len(data) if whole else data[2]
        if whole:
            self.pace(size)
        fixed, expires = self.fixed, self.expires  # those of a grant that is renewed while this is sent are the next's
        sha, etag = sha256(), None
        if not self.sums:
            from agent.md5_check import Etag

            etag = Etag()
        for block in [data] if whole else blocks(*data):
            sha.update(block)
            etag and etag.update(block)
        form = FIELD % ("key", self.prefix + name)
        if self.sums:
            form += FIELD % ("x-amz-checksum-sha256", base64(sha.digest()))
        form = fixed + form.encode() + FILE
        head = "POST%sContent-Type: multipart/form-data; boundary=%s\r\nContent-Length: %d\r\n\r\n"
        form = (head % (self.head, BOUNDARY, len(form) + size + len(TAIL))).encode() + form
        small = size < 1 << 16 and whole
        status, headers, body = self.ask(form + data + TAIL) if small else self.ask(form, data, TAIL)
        if not 200 <= status < 300 or b"<Error>" in body:
            raise refusal(status, headers, body, time.time() >= expires > 0)
        verified = etag.compare(headers) if etag else "sha256"
        return {"size": size, "sha256": sha.hexdigest(), "verified": verified}


def blocks(fd, at, size):
    """Yield `size` bytes of an open file from `at`, a block at a time. Raise Changed when it has fewer."""
    while size:
        block = os.pread(fd, min(BLOCK, size), at)
        if not block:
            raise Changed
        yield block
        at, size = at + len(block), size - len(block)


def insist(attempt, until=0, pause=time.sleep, tries=0):
    """Return what `attempt()` returns; after failures that may pass try again: exponential back-off, full jitter.

    Raise the last Failed once `tries` (0: TRIES), PATIENCE or `until` (seconds since 1970; 0: none) is used up, or
    `pause` is true.
    """
    spent = tried = 0
    while True:
        try:
            return attempt()
        except Failed as failure:
            tried += 1
            wait = failure.wait or min(30, WAIT * 2**tried) * os.urandom(1)[0] / 255
            spent += wait
            if (
                failure.exit < 7
                or failure.fatal
                or tried == (tries or TRIES)
                or spent > PATIENCE
                or 0 < until < time.time() + wait
            ):
                raise
            if pause(wait):
                raise


def send(target, name, data, expires=0, until=0):
    """Store `data` (bytes) as `name` below the target's prefix, insisting until `until`. Return as Sender.post does."""
    sender = Sender(target, expires)
    try:
        return insist(lambda: sender.post(name, data), until)
    finally:
        sender.close()
