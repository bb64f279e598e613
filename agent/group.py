"""Which member of a group this VM is: VMs of one request share one user-data, and only EC2 tells them apart.

Packed for groups only, and called before `agent run`: the grant with ``{task}`` in its prefixes is replaced by the
member's own, so that a reboot and the job's own pushes find that. A VM that can't learn its index posts nothing: any
guess would write into another task's prefix. It says why, and ends with exit code 3: it has no grant.
"""

import time

from agent.command import Bad, load, say
from agent.grant import member, rewrite
from agent.imds import told

TRIES = 30  # a second apart: the metadata service may come up after us


def join(path=None, host=None):
    """Rewrite the grant at `path` as this VM's own. End the process when the cloud doesn't say which one it is."""
    try:
        grant, path = load(path)
    except Bad:
        return  # `agent run` says why
    if "{task}" not in grant.outputs.prefix:
        return  # an earlier boot did it
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
        rewrite(member(grant, int(index)), path)
    except IndexError:
        refuse("its launch index is %.20r, and the tasks are %.99s" % (index, grant.task))


def refuse(why):
    """Say it, and end."""
    say("agent: which task is this VM's? %s" % why)
    raise SystemExit(3)
