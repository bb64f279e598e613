"""Fetches from the bucket what had no room in the user-data.

Each such object is named by a presigned GET, and pinned by its hash::

    {"url": presigned GET, "size": bytes, "sha256": hex}

``agent`` in the grant is one of these: an archive of the modules that are not in the user-data. A VM that can't get it
still runs its job and uploads its outputs, and says what is missing. An archive is compressed with bzip2; form feeds
separate its files, and the first line of each is its name, without .py. A grant can be such an object, too
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
from agent.layout import ARCHIVE_LAST, ARCHIVE_MARK
from agent.retry import with_retries


def fetch_pinned(path, source):
    """Fetch a pinned object to the file `path`, unless it is there. Retry for five minutes: the network may come late.

    Raise TransferError.
    """
    with suppress(OSError), open(path, "rb") as file:
        if sha256(file.read()).hexdigest() == source["sha256"]:
            return
    connection = HttpConnection(source["url"])

    def attempt():
        # At most one byte more than expected: what somebody put in its place may be larger than the memory.
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
    """Unpack the rest of the agent beside this module. Return None, or a sentence that says why that failed."""
    here = os.path.dirname(__file__)
    try:
        # If the last file is there then so are the others: all lie in memory, of which a power cut leaves nothing.
        if not os.path.exists(here + "/%s.py" % ARCHIVE_LAST):
            fetch_pinned(source["sha256"], source)
            with bz2.open(source["sha256"]) as archive:
                files = archive.read().split(ARCHIVE_MARK)
            for each in files:
                name, text = each.split(b"\n", 1)
                with open("%s/%s.py" % (here, name.decode()), "wb") as file:
                    file.write(text)
            sys.path_importer_cache.clear()  # it holds the files that this folder had a moment ago
    except (TransferError, OSError) as error:
        return "the rest of the agent can't be had: %s" % error
