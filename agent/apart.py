"""Fetches the grant where it was too large for the user-data, and so lies in the bucket.

Packed for such jobs only, and called before `agent run`. What stands in the grant's place is::

    {"version": 1, "expires": TIME, "from": {"url": presigned GET, "size": bytes, "sha256": hex}}
"""

import json
import os
from hashlib import sha256

from agent.command import say
from agent.grant import instant
from agent.post import Failed, Wire, insist, refusal


def fetch_grant(path=None):
    """Put the whole grant in the place of what tells where it is. End the process when it can't be had."""
    path = path or os.environ.get("FREEPOST_GRANT") or "/run/freepost/grant.json"
    with open(path, "rb") as file:
        stub = json.loads(file.read().decode())
    if "from" not in stub:
        return  # an earlier boot did it
    source, until = stub["from"], instant(stub["expires"])
    wire = Wire(source["url"])

    def attempt():
        status, headers, body = wire.ask(("GET%s\r\n" % wire.head).encode())
        if status != 200:
            raise refusal(status, headers, body, False)
        if sha256(body).hexdigest() != source["sha256"]:
            raise Failed("the grant in the bucket is not the one that this VM was launched with", 8, True)
        return body

    try:
        body = insist(attempt, until)  # the network may still be coming up
    except Failed as failure:
        say("the grant: %s" % failure)
        raise SystemExit(failure.exit) from None
    finally:
        wire.close()
    with open(os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o400), "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".new", path)
