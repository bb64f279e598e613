"""What `agent run` does first where the user-data doesn't hold the grant that is this VM's own.

Packed into such VMs alone. A grant that had no room lies in the bucket: where there is no ``grant.json``,
``grant.json.from`` says where, as agent/boot.py has it; without its grant a VM can do nothing, and ends. VMs of a group
share one grant, of which each makes its own (agent/launch_group.py).
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
