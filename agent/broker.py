"""`agent push --broker URL --token-file FILE`: the grant comes from a signing service (`provision serve`), by token.

One request before the push, and again when the grant is about to end or the store says that it has (`agent.renew`). The
token is read from its file each time, so that a fresh one can take its place; it is in no argument and no message, and
goes over http to this machine alone. The journal lies beside the token file, and while it is used so does the grant,
one for each process.
"""

import atexit
import json
import os
import re
import time
from contextlib import suppress

from agent.console import CommandError
from agent.errors import ExitCode, TransferError, retry_after
from agent.grant import GrantError, parse
from agent.grantfile import replace
from agent.http import HttpConnection
from agent.layout import LOCK
from agent.renew import Renewal
from agent.retry import PATIENCE, with_retries

# Exit codes for the service's final answers. Any other status may be temporary, or not the service's at all.
EXIT = {
    400: ExitCode.USAGE,
    401: ExitCode.NO_GRANT,
    403: ExitCode.REFUSED,
    413: ExitCode.USAGE,
    422: ExitCode.USAGE,
}
LOOPBACK = r"127(\.\d+){3}|localhost|\[::1\]"
NEVER = 1 << 40  # such a grant ends when its token does, and only the service knows when that is


def request_grant(url, path):
    """Ask the service once, with the token in the file `path`. Return a grant, as JSON (bytes). Raise TransferError."""
    try:
        with open(path) as file:
            token = file.read(10000).strip()
    except (OSError, ValueError) as error:
        raise TransferError(
            "the token file: %s" % (getattr(error, "strerror", 0) or "not text"), ExitCode.NO_GRANT, True
        ) from None
    if not re.match(r"[!-~]+$", token):
        raise TransferError("the token file holds no token", ExitCode.NO_GRANT, True)
    connection = HttpConnection(url.rstrip("/") + "/v1/grant")
    try:
        head = "POST%sAuthorization: Bearer %s\r\nContent-Length: 0\r\n\r\n" % (connection.head, token)
        status, headers, body = connection.request(head.encode())
    finally:
        connection.close()
    if status == 200:
        try:
            parse(body)
        except GrantError as error:
            raise TransferError("the broker's answer: %s" % error, ExitCode.NO_GRANT, True) from None
        return body
    try:
        text = str(json.loads(body.decode())["message"])
    except (ValueError, KeyError, TypeError):
        text = "it answered %d" % status
    text = "the broker: " + "".join(filter(str.isprintable, text.replace(token, "…")))[:300]
    if status in EXIT:
        expired = status == 401 and "expired" in text
        raise TransferError(text, ExitCode.EXPIRED if expired else EXIT[status], True)
    raise TransferError(text, ExitCode.UNREACHABLE, status < 429, retry_after(headers))


def obtain(url, path, say):
    """Return a grant, the path that its journal's is made from, and its Renewal. Raise CommandError."""
    if not re.match(r"https?://[^/?#@\s]+(/[^?#\s]*)?$", url or ""):
        raise CommandError("--broker: not a URL such as https://broker.example:8450/", ExitCode.USAGE)
    if not path:
        raise CommandError("--broker: needs --token-file FILE", ExitCode.USAGE)
    if url.startswith("http:") and not re.match(r"(%s)$" % LOOPBACK, HttpConnection(url).host):
        raise CommandError("--broker: needs https://, or the token would cross the network in clear", ExitCode.USAGE)
    path = os.path.abspath(path)
    try:
        text = with_retries(lambda: request_grant(url, path))
    except TransferError as error:
        raise CommandError(str(error), error.exit) from None
    held = "%s.grant.%d" % (path, os.getpid())
    atexit.register(delete, held, LOCK % held)
    replace(held, text)
    return parse(text), path, Renewal(held, renewal_source(url, path), NEVER, say)


def renewal_source(url, path):
    """The source that asks the service again, not before it says, and not for ever."""
    wait = [0]

    def source(grant):
        if time.time() < wait[0]:
            return None
        try:
            return request_grant(url, path)
        except TransferError as error:
            wait[0] = time.time() + error.wait
            error.permanent = error.permanent or time.time() > grant.expires + PATIENCE
            raise

    return source


def delete(*paths):
    """Delete files, as far as they are there."""
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)
