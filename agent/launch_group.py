"""Which member of a group this VM is: VMs of one request share one user-data, and only EC2 tells them apart.

In the VMs of groups only, and called by `agent.boot`: the grant with ``{task}`` in its prefixes is replaced by the
member's own, so that a reboot and the job's own pushes find that. A VM that can't learn its index posts nothing: any
guess would write into another task's prefix. It says why, and ends with exit code 3: it has no grant.
"""

import time

from agent.grant import member, rewrite
from agent.imds import told
from agent.main import say

TRIES = 30  # a second apart: the metadata service may come up after us


def join(grant, path, host=None):
    """Return this VM's own grant, and put it at `path`. End the process when the cloud doesn't say which one it is."""
    for left in reversed(range(TRIES)):
        try:
            index = told("ami-launch-index", host) or ""
            break
        except OSError as error:
            if not left:
                refuse("the metadata service can't be reached: %s" % (error.strerror or error))
        time.sleep(1)  # the network may still be coming up, and says so to nobody here
    try:
        if not index.isdecimal():
            raise IndexError
        grant = member(grant, int(index))
    except IndexError:
        refuse("its launch index is %.20r, and the tasks are %.99s" % (index, grant.task))
    rewrite(grant, path)
    return grant


def refuse(why):
    """Say it, and end."""
    say("agent: which task is this VM's? %s" % why)
    raise SystemExit(3)
