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

from agent.grant import GrantError, parse, rewrite
from agent.http import PATIENCE, Failed, Wire, insist
from agent.main import Bad
from agent.renew import Renewal

EXIT = {400: 2, 401: 3, 403: 5, 413: 2, 422: 2}  # of the service's answers; others may pass, or are no service's
LOOPBACK = r"127(\.\d+){3}|localhost|\[::1\]"
NEVER = 1 << 40  # such a grant ends when its token does, and only the service knows when that is


def ask(url, path):
    """Ask the service once, with the token in the file `path`. Return a Grant. Raise Failed."""
    try:
        with open(path) as file:
            token = file.read(10000).strip()
    except (OSError, ValueError) as error:
        raise Failed("the token file: %s" % (getattr(error, "strerror", 0) or "not text"), 3, True) from None
    if not re.match(r"[!-~]+$", token):
        raise Failed("the token file holds no token", 3, True)
    wire = Wire(url.rstrip("/") + "/v1/grant")
    try:
        head = "POST%sAuthorization: Bearer %s\r\nContent-Length: 0\r\n\r\n" % (wire.head, token)
        status, headers, body = wire.ask(head.encode())
    finally:
        wire.close()
    if status == 200:
        try:
            return parse(body)
        except GrantError as error:
            raise Failed("the broker's answer: %s" % error, 3, True) from None
    try:
        text = str(json.loads(body.decode())["message"])
    except (ValueError, KeyError, TypeError):
        text = "it answered %d" % status
    text = "the broker: " + "".join(filter(str.isprintable, text.replace(token, "…")))[:300]
    if status in EXIT:
        raise Failed(text, 4 if status == 401 and "expired" in text else EXIT[status], True)
    wait = headers.get(b"retry-after", b"")
    raise Failed(text, 7, status < 429, min(120, int(wait)) if wait.isdigit() else 0)


def obtain(url, path, say):
    """Return a grant that is kept alive, and the path that its journal's is made from. Raise Bad."""
    if not re.match(r"https?://[^/?#@\s]+(/[^?#\s]*)?$", url or ""):
        raise Bad("--broker wants the service's URL, such as https://broker.example:8450/", 2)
    if not path:
        raise Bad("--broker wants --token-file FILE", 2)
    if url.startswith("http:") and not re.match(r"(%s)$" % LOOPBACK, Wire(url).host):
        raise Bad("the token would cross the network in clear: --broker wants https://", 2)
    path = os.path.abspath(path)
    try:
        grant = insist(lambda: ask(url, path))
    except Failed as failure:
        raise Bad(str(failure), failure.exit) from None
    held = "%s.grant.%d" % (path, os.getpid())
    atexit.register(forget, held, held + ".lock")
    rewrite(grant, held)
    Renewal(held, again(url, path), NEVER, say).install()
    return grant._replace(expires=NEVER), path


def again(url, path):
    """The source that asks the service again, not before it says, and not for ever."""
    wait = [0]

    def source(grant):
        if time.time() < wait[0]:
            return None
        try:
            return ask(url, path)
        except Failed as failure:
            wait[0] = time.time() + failure.wait
            failure.fatal = failure.fatal or time.time() > grant.expires + PATIENCE
            raise

    return source


def forget(*paths):
    """Delete files, as far as they are there."""
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)
