"""What `agent run` does first where the user-data doesn't hold the grant that is this VM's own.

Packed into such VMs alone. A grant that had no room lies in the bucket: where there is no ``grant.json``,
``grant.json.from`` says where, as agent/boot.py has it; without its grant a VM can do nothing, and ends. VMs of a group
share one grant, of which each makes its own (agent/launch_group.py).
"""

import json
import os

from agent.boot import have
from agent.http import Failed
from agent.main import Bad, load


def own():
    """Return the grant of this VM and its path. Raise Bad."""
    path = os.environ.get("FREEPOST_GRANT") or "/run/freepost/grant.json"
    if not os.path.exists(path) and os.path.exists(path + ".from"):
        try:
            with open(path + ".from") as file:
                have(path, json.load(file))
        except Failed as failure:
            raise Bad("the grant: %s" % failure, failure.exit) from None
    grant, path = load(path)
    if "{task}" in grant.outputs.prefix:
        from agent.launch_group import join

        grant = join(grant, path)
    return grant, path
