"""Fetches what had no room in the user-data, and so lies in the bucket.

It is told of, in each case, by a presigned GET, pinned::

    {"url": presigned GET, "size": bytes, "sha256": hex}

That is ``agent`` in the grant, for an archive (tar.bz2) of the modules that a VM can do without: it runs its job and
uploads its outputs all the same, and says what is missing. A grant may lie there, too (agent/remote_grant.py). What was
fetched stays beside the grant, so that a reboot finds it.
"""

import os
import sys
import tarfile
from contextlib import suppress
from hashlib import sha256

from agent.grant import replace
from agent.http import Failed, Wire, insist, refusal


def have(path, source):
    """Have in the file `path` what a presigned GET pins. Insist for five minutes: the network may come late.

    Raise Failed.
    """
    with suppress(OSError), open(path, "rb") as file:
        if sha256(file.read()).hexdigest() == source["sha256"]:
            return
    wire = Wire(source["url"])

    def attempt():
        # A byte more than there should be, at most: what was put in its place may be larger than the memory.
        ask = "GET%sRange: bytes=0-%d\r\n\r\n" % (wire.head, source["size"])
        status, headers, body = wire.ask(ask.encode())
        if status > 206:
            raise refusal(status, headers, body, False)
        if sha256(body).hexdigest() != source["sha256"]:
            raise Failed("what lies in the bucket is not what this VM was launched with", 8, True)
        return body

    try:
        replace(path, insist(attempt, tries=99))
    finally:
        wire.close()


def complete(source):
    """Put the rest of the agent beside this module. Return a sentence that says why it can't be had, or None."""
    here = os.path.dirname(__file__)
    try:
        if not os.path.exists(here + "/compose.py"):  # the last that is unpacked
            have(source["sha256"], source)
            with tarfile.open(source["sha256"]) as archive:
                archive.extractall(here)  # noqa: S202 - pinned by its sha256; 3.6 has no filter
            sys.path_importer_cache.clear()  # what this folder holds was looked up a moment ago
    except (Failed, OSError) as error:
        return "the rest of the agent can't be had: %s" % error
