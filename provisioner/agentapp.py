"""Packs the agent into the archive that every VM gets: reproducible, and as small as it can be made.

Every byte of it travels in user-data, which EC2 limits to 16 KB: so `provisioner.shrink` leaves out what a VM has no
use for.
"""

from __future__ import annotations

import bz2
import io
import tarfile
from functools import lru_cache

from provisioner.resources import agent_sources
from provisioner.shrink import shrink

# All is written and flushed by then; taking the interpreter down would be a seventh of what a small file takes.
MAIN = "import os\nfrom agent.command import main\nos._exit(main())\n"
# A member of a group first finds out which one it is.
BEFORE = "import sys\nif sys.argv[1:] == ['run']:\n    from agent.{0} import {1}\n    {1}()\n"
FIRST = {
    "apart": BEFORE.format("apart", "fetch_grant"),
    "group": BEFORE.format("group", "join"),
    "door": BEFORE.format("door", "install"),
    "spot": BEFORE.format("spot", "attach"),
    "renew": "from agent.renew import start\nstart()\n",  # whatever the command
}
ALWAYS = ("__init__", "command", "files", "grant", "journal", "post", "push", "task")
# What else rides along, and when.
FOR_BUNDLES = ("bundle",)
FOR_GROUPS = ("group", "imds")
FOR_SPOT = ("spot", "imds")
FOR_INPUTS = ("pull",)
FOR_PUTS = ("slots",)  # stores that take no forms
FOR_APART = ("apart",)  # grants that lie in the bucket
FOR_RENEWAL = ("renew",)
FOR_TLS = ("proxy",)  # what else TLS may go through
FOR_USERS = ("cli", "door", "knock", "stream")  # those that run as a user, who can't read the grant
FOR_SCRIPTS = ("cli", "direct", "etag", "hurry", "stream")  # jobs that call `agent` themselves


@lru_cache(maxsize=8)
def agent_tar(extra: frozenset[str] = frozenset()) -> bytes:
    """Return a tar of the modules that every VM needs and those of `extra`, and of ``__main__.py``, which starts them.

    The same bytes for the same sources, whatever Python packs it.
    """
    sources = agent_sources()
    chosen = {f"agent/{name}.py": sources[f"agent/{name}.py"].decode() for name in (*ALWAYS, *sorted(extra))}
    main = "".join(line for name, line in FIRST.items() if name in extra) + MAIN
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, source in shrink({**chosen, "__main__.py": main}).items():
            data = source.encode()
            entry = tarfile.TarInfo(name)  # of nobody, of 1970
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@lru_cache(maxsize=8)
def packed(extra: frozenset[str] = frozenset()) -> bytes:
    """Return the tar compressed with bzip2, the best of what every Python has; the launcher in the VM undoes it.

    Of 41 KB of tar it makes 10,343 bytes where LZMA, at its best settings, makes 10,755 and deflate 11,310.
    """
    return bz2.compress(agent_tar(extra))
