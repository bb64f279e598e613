"""Which member of a group this VM is: VMs of one request share one user-data, and only EC2 tells them apart.

Packed for groups only, and called before `agent run`: the grant with ``{task}`` in its prefixes is replaced by the
member's own, so that a reboot and the job's own pushes find that. A VM that can't learn its index posts nothing: any
guess would write into another task's prefix.
"""

import os
import time
from http.client import HTTPConnection, HTTPException

from agent.grant import member, parse, rewrite

TRIES = 30  # a second apart: the metadata service may come up after us


def ask(host, method, path, **headers):
    """One request to the metadata service (AWS, "Use the Instance Metadata Service": IMDSv2). Raise OSError."""
    link = HTTPConnection(host, timeout=5)
    try:
        named = {"X-aws-ec2-metadata-token" + name: value for name, value in headers.items()}
        link.request(method, "/latest/" + path, headers=named)
        reply = link.getresponse()
        body = reply.read().decode()
    except HTTPException as error:
        raise OSError("no HTTP") from error
    finally:
        link.close()
    if reply.status != 200:
        raise OSError("the metadata service answered %d" % reply.status)
    return body


def join(path=None, host="169.254.169.254"):
    """Rewrite the grant at `path` as this VM's own. Raise OSError when the metadata service doesn't say which it is."""
    path = path or os.environ.get("FREEPOST_GRANT") or "/run/freepost/grant.json"
    with open(path, "rb") as file:
        grant = parse(file.read())
    if "{task}" not in grant.outputs.prefix:
        return  # an earlier boot did it
    for left in reversed(range(TRIES)):
        try:
            token = ask(host, "PUT", "api/token", **{"-ttl-seconds": "60"})
            index = int(ask(host, "GET", "meta-data/ami-launch-index", **{"": token}))
            break
        except OSError:
            if not left:
                raise
        time.sleep(1)  # the network may still be coming up, and says so to nobody here
    rewrite(member(grant, index), path)
