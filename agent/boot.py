"""Fetches what had no room in the user-data, and so lies in the bucket.

It is told of, in each case, by a presigned GET, pinned::

    {"url": presigned GET, "size": bytes, "sha256": hex}

That is ``agent`` in the grant, for an archive of the modules that a VM can do without: it runs its job and uploads its
outputs all the same, and says what is missing. In an archive, which bzip2 has compressed, files are parted by form
feeds, and each begins with a line of its own: its name, without .py. A grant may lie there, too
(agent/remote_grant.py). What was fetched stays beside the grant, so that a reboot finds it.
"""

import bz2
import os
import sys
from contextlib import suppress
from hashlib import sha256

from agent.errors import ExitCode, TransferError, error_from_reply
from agent.grantfile import replace
from agent.http import HttpConnection
from agent.retry import with_retries


def fetch_pinned(path, source):
    """Have in the file `path` what a presigned GET pins. Insist for five minutes: the network may come late.

    Raise TransferError.
    """
    with suppress(OSError), open(path, "rb") as file:
        if sha256(file.read()).hexdigest() == source["sha256"]:
            return
    connection = HttpConnection(source["url"])

    def attempt():
        # A byte more than there should be, at most: what was put in its place may be larger than the memory.
        head = "GET%sRange: bytes=0-%d\r\n\r\n" % (connection.head, source["size"])
        status, headers, body = connection.request(head.encode())
        if status > 206:
            raise error_from_reply(status, headers, body, False)
        if sha256(body).hexdigest() != source["sha256"]:
            raise TransferError("what lies in the bucket is not what this VM was launched with", ExitCode.DAMAGED, True)
        return body

    try:
        replace(path, with_retries(attempt, tries=99))
    finally:
        connection.close()


def complete(source):
    """Put the rest of the agent beside this module. Return a sentence that says why it can't be had, or None."""
    here = os.path.dirname(__file__)
    try:
        if not os.path.exists(here + "/compose.py"):  # the last that is unpacked
            fetch_pinned(source["sha256"], source)
            with bz2.open(source["sha256"]) as archive:
                files = archive.read().split(b"\f")
            for each in files:
                name, text = each.split(b"\n", 1)
                with open("%s/%s.py" % (here, name.decode()), "wb") as file:
                    file.write(text)
            sys.path_importer_cache.clear()  # what this folder holds was looked up a moment ago
    except (TransferError, OSError) as error:
        return "the rest of the agent can't be had: %s" % error
