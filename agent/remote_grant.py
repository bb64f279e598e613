"""Gets the grant of a VM whose user-data doesn't hold it, before `agent run` does anything else.

Packed into such VMs only. There are two kinds: the grant had no room in the user-data and lies in the bucket, at the
presigned GET in ``grant.json.from`` (its format is in agent/boot.py); or the VM belongs to a group that shares one
grant, from which it makes its own (agent/launch_group.py). A VM that can't get its grant ends.
"""

import json
import os

from agent.boot import fetch_pinned
from agent.console import CommandError
from agent.errors import TransferError
from agent.grantfile import load
from agent.layout import GRANT, GRANT_SOURCE, GRANT_VARIABLE


def load_own():
    """Return the grant of this VM and its path. Raise CommandError."""
    path = os.environ.get(GRANT_VARIABLE) or GRANT
    if not os.path.exists(path) and os.path.exists(GRANT_SOURCE % path):
        try:
            with open(GRANT_SOURCE % path) as file:
                fetch_pinned(path, json.load(file))
        except TransferError as error:
            raise CommandError("the grant: %s" % error, error.exit) from None
    grant, path = load(path)
    if "{task}" in grant.outputs.prefix:
        from agent.launch_group import join  # in the VMs of groups only

        grant = join(grant, path)
    return grant, path
