"""Which member of a group this VM is: VMs of one request share one user-data, and only EC2 tells them apart.

Packed into the VMs of groups only, and called by `agent.remote_grant`. It replaces the shared grant, which has
``{task}`` in its prefixes, by the member's own, so that a reboot and the job's own pushes find that. A VM that can't
learn its index posts nothing, because any guess would write into another task's prefix; it says why and ends with exit
code 3, NO_GRANT.
"""

import json
import time

from agent.console import CommandError
from agent.errors import ExitCode
from agent.grant import for_index
from agent.grantfile import replace
from agent.imds import get_metadata

TRIES = 30  # a second apart: the metadata service may come up after us


def join(grant, path, host=None):
    """Return this VM's own grant, and put it at `path`. Raise CommandError when the cloud doesn't say which it is."""
    for left in reversed(range(TRIES)):
        try:
            index = get_metadata("ami-launch-index", host) or ""
            break
        except OSError as error:
            if not left:
                give_up("the metadata service can't be reached: %s" % (error.strerror or error))
        time.sleep(1)  # the network may still be coming up, and no event says when it is
    try:
        if not index.isdecimal():
            raise IndexError
        grant = for_index(grant, int(index))
    except IndexError:
        give_up("its launch index is %.20r, and the tasks are %.99s" % (index, grant.task))
    with open(path) as file:
        document = json.load(file)
    document["task"] = grant.task
    for name, target in (("outputs", grant.outputs), ("status", grant.status)):
        document[name]["prefix"] = target.prefix
    replace(path, json.dumps(document).encode())
    return grant


def give_up(why):
    """Raise CommandError."""
    raise CommandError("which task is this VM's? %s" % why, ExitCode.NO_GRANT)
