"""One form at a time to one store, over one kept-alive connection.

The form's fields go first and the file last, with an exact Content-Length, and no copy of a large file in memory.
Connections: `http.client` makes those that need TLS (the system's CAs) or a proxy (HTTPS_PROXY, NO_PROXY); a plain
one is a socket, and replies are read here, because http.client's imports and its e-mail parser cost more than all
else that a small file costs. Every failure is a `Failed`, told apart by the Code and Message of S3's XML.
No text of this module holds a policy, signature, key, token or query.
"""

import hashlib
import os
import re
import socket
import time
from binascii import b2a_base64, hexlify

CONNECT, STALL = 10, 30  # seconds: to connect; without a byte of progress, which ends an attempt
TRIES, WAIT, PATIENCE = 10, 0.5, 300  # attempts; first back-off and the sum of all, in seconds
BLOCK = 1 << 20  # bytes hashed or sent in one go
BOUNDARY = hexlify(os.urandom(16)).decode()
TAIL = ("\r\n--%s--\r\n" % BOUNDARY).encode()
# By S3's error Code, whatever the status says. Codes of the second kind condemn every form alike.
TRANSIENT = re.compile("RequestTimeout$|SlowDown|InternalError|ServiceUnavailable|IncompleteBody|BadDigest|.*Checksum|Busy")
HOPELESS = re.compile("Signature|InvalidAccessKey|NoSuchBucket|AccountProblem|PermanentRedirect|TemporaryRedirect|NotImpl")


class Failed(Exception):
    """One attempt failed, and the text says why. `exit` is the exit code it deserves.

    `retry`: worth another try, not before `wait` seconds. `fatal`: no other file would fare better.
    """

    def __init__(self, text, exit=7, retry=True, fatal=False, wait=0):
        Exception.__init__(self, text)
        self.exit, self.retry, self.fatal, self.wait = exit, retry, fatal, wait


class Changed(Failed):
    """The file changed while it was read."""


def refusal(status, headers, body, late=False):
    """Return the Failed that a reply stands for. `late`: by our own clock the grant has expired."""
    code, message = (
        (re.findall("<%s>([^<]*)" % tag, body.decode("utf-8", "replace")) or [""])[0] for tag in ("Code", "Message")
    )
    # AWS quotes the condition that failed: its field may be told, a value or anything that looks like a secret may not.
    message = re.sub(r'", *"[^$].*|[\w+/=%-]{20,}', "…", message)[:200]
    text = "%d %s" % (status, "".join(filter(str.isprintable, code[:40] + ": " + message)))
    if "xpired" in code + message or late and status == 403:
        return Failed("the grant has expired (%s)" % text, 4, False, True)
    if status in (408, 429) or status >= 500 and status != 501 or status < 300 or TRANSIENT.match(code):
        wait = headers.get(b"retry-after", b"")
        digest = "Checksum" in code or "Digest" in code
        return Failed("the store answered " + text, 8 if digest else 7, wait=int(wait) if wait.isdigit() else 0)
    return Failed("the store refused it: " + text, 5, False, bool(HOPELESS.match(code)))


class Wire:
    """A connection to the host of `url`, made when first needed and again when it was lost."""

    def __init__(self, url):
        found = re.match(r"http(s?)://(\[[^]]*\]|[^/:?]+):?(\d*)(.*)", url)
        self.secure, self.host, port, self.path = found.groups()
        self.port = int(port or (443 if self.secure else 80))
        self.address = self.host + (":" + port if port else "")
        self.sock = None

    def close(self):
        """Hang up."""
        if self.sock:
            self.sock.close()
        self.sock = None

    def connect(self):
        """Connect, through a proxy where the environment names one for TLS."""
        host = self.host.strip("[]")
        if self.secure:
            from http.client import HTTPSConnection
            from urllib.request import getproxies, proxy_bypass

            proxy = not proxy_bypass(host) and getproxies().get("https")
            via = re.match(r"(?:http://)?(?:(.*)@)?([^/:]+):?(\d*)", proxy or "http://" + host)
            login, name, port = via.groups()
            link = HTTPSConnection(name, int(port or 3128) if proxy else self.port, timeout=CONNECT)
            if proxy:
                basic = {"Proxy-Authorization": "Basic " + b2a_base64(login.encode()).decode().strip()} if login else {}
                link.set_tunnel(host, self.port, basic)
            link.connect()
            self.sock = link.sock
        else:
            self.sock = socket.create_connection((host, self.port), CONNECT)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(STALL)
        self.replies = self.sock.makefile("rb")

    def ask(self, request, send=None, take=None):
        """Send a request's first bytes and, by `send(socket)`, the rest. Return (status, headers, body).

        `take(reader, length)` reads the body of a 2xx reply instead. A kept-alive connection that the store has
        closed meanwhile is made anew, once, at no cost to the caller's tries.
        """
        used = self.sock is not None
        sent = trouble = None
        try:
            if not used:
                self.connect()
            try:
                self.sock.sendall(request)
                sent = send and send(self.sock)
            except ConnectionError as error:
                trouble = error  # a store may answer, and close, before it has read the whole body
            status, headers, body = self.reply(take)
        except (OSError, ValueError) as error:
            self.close()
            if isinstance(error, Failed):
                raise
            if used and isinstance(error, ConnectionError):
                return self.ask(request, send, take)
            unsafe = "CERTIFICATE" in str(error)
            cause = trouble or error
            said = "no progress for %d s" % STALL if isinstance(cause, socket.timeout) else cause.strerror or cause
            raise Failed("%s: %s" % (self.address, said), 7, not unsafe, unsafe) from None
        if trouble or headers.get(b"connection", b"").lower() == b"close":
            self.close()
        return status, headers, body

    def reply(self, take=None):
        """Read one reply."""
        line = self.replies.readline(999)
        if not line:
            raise ConnectionResetError("the store closed the connection")
        status = int(line.split()[1])
        headers = {}
        for line in iter(lambda: self.replies.readline(9999).strip(), b""):
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        length = headers.get(b"content-length")
        if status < 200:
            return self.reply(take)
        if status == 204:
            body = b""
        elif headers.get(b"transfer-encoding"):
            body = b""
            for line in iter(lambda: int(self.replies.readline(99).split(b";")[0], 16), 0):
                body += self.replies.read(line)
                self.replies.readline(9)
            self.replies.readline(9)
        elif take and status < 300:
            body = take(self.replies, int(length))
        else:
            body = self.replies.read(int(length) if length else -1)
        return status, headers, body


def field(name, value):
    """One field of a multipart form. `value` may hold no control characters (grant.encode_name sees to it)."""
    text = '--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (BOUNDARY, name, value)
    return text.encode("utf-8", "surrogateescape")


class Sender:
    """Posts forms by one target's policy over one connection.

    `expires` is the grant's, in seconds since 1970; `pace(n)` is called before each n bytes and may sleep or raise.
    """

    def __init__(self, target, expires=0, pace=None):
        self.target, self.expires, self.pace = target, expires, pace
        self.wire = Wire(target.url)
        self.sums = target.covers("x-amz-checksum-sha256")
        form = target.form("")
        del form["key"]
        self.fixed = b"".join(field(*pair) for pair in form.items())

    def post(self, name, data=b"", file=None, offset=0, size=0):
        """Store one object under the target's prefix, in one attempt: `data`, or `size` bytes of `file` from `offset`.

        Return {"size", "sha256", "verified"}. Raise Failed; a file that gives fewer bytes raises Changed.
        """
        sha = hashlib.sha256(data)
        if file is None:
            size = len(data)
            md5 = None if self.sums else hashlib.md5(data)
        else:
            md5 = None if self.sums else hashlib.md5()
            if self.sums:
                for block in blocks(file, offset, size):
                    sha.update(block)
        form = self.fixed + field("key", self.target.prefix + name)
        if self.sums:
            form += field("x-amz-checksum-sha256", b2a_base64(sha.digest()).decode().strip())
        form += field("file", "")[:-4].replace(b'"file"', b'"file"; filename="f"') + b"\r\n"
        head = "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: multipart/form-data; boundary=%s\r\nContent-Length: %d\r\n\r\n"
        head = head % (self.wire.path or "/", self.wire.address, BOUNDARY, len(form) + size + len(TAIL))

        def stream(sock):
            if self.sums:
                at = offset
                while at < offset + size:
                    count = min(BLOCK, offset + size - at)
                    self.pace and self.pace(count)
                    sent = sock.sendfile(file, at, count)
                    if not sent:
                        raise Changed("the file became shorter")
                    at += sent
            else:
                for block in blocks(file, offset, size):
                    self.pace and self.pace(len(block))
                    sha.update(block)
                    md5.update(block)
                    sock.sendall(block)
            sock.sendall(TAIL)

        request = head.encode() + form
        if file is None:
            self.pace and self.pace(size)
            request += data + TAIL
        status, headers, body = self.wire.ask(request, file and stream)
        if not 200 <= status < 300 or b"<Error>" in body:
            raise refusal(status, headers, body, time.time() >= self.expires > 0)
        verified = "sha256"
        if md5:
            etag = headers.get(b"etag", b"").decode().strip('"')
            verified = "etag" if etag == md5.hexdigest() else "sent"
            if verified == "sent" and len(etag) == 32 and b"x-amz-server-side-encryption" not in headers:
                raise Failed("the store's ETag is not the MD5 of what was sent", 8)
        return {"size": size, "sha256": sha.hexdigest(), "verified": verified}


def blocks(file, offset, size):
    """Yield `size` bytes of `file` from `offset`, a block at a time, each valid until the next."""
    view = memoryview(bytearray(BLOCK))
    file.seek(offset)
    while size:
        count = file.readinto(view[: min(size, BLOCK)])
        if not count:
            raise Changed("the file became shorter")
        yield view[:count]
        size -= count


def insist(attempt, pause=time.sleep, until=0):
    """Return what `attempt()` returns, trying again after transient failures: exponential back-off, full jitter.

    Raise the last Failed once it is permanent, or TRIES, PATIENCE or `until` (seconds since 1970) is used up.
    """
    spent = 0
    for tries in range(1, TRIES + 1):
        try:
            return attempt()
        except Failed as failure:
            wait = failure.wait or min(30, WAIT * 2**tries) * int.from_bytes(os.urandom(2), "big") / 65536
            spent += wait
            if not failure.retry or tries == TRIES or spent > PATIENCE or until and time.time() + wait > until:
                raise
        pause(wait)


def send(target, name, data, expires=0, until=0):
    """Store `data` (bytes) as `name` below the target's prefix, insisting until `until`. Return as Sender.post does."""
    sender = Sender(target, expires)
    try:
        return insist(lambda: sender.post(name, data), until=until)
    finally:
        sender.wire.close()
