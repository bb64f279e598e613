"""Builds what `agent run` runs with, from what the grant and the task ask for.

Not in the core: where this module could not be had, the job runs with `agent.task.Task` alone.
"""

from contextlib import suppress

from agent.task import Task


def compose(grant, path, task):
    """Return the grant that is kept alive, and the kind of Task."""
    kind = Task
    if task["user"]:
        with suppress(ImportError):  # there was no room for it, and whoever rendered the user-data was told
            from agent import push_server

            kind = push_server.Task
    if task.get("spot"):
        from agent.spot import Spot

        kind = type("Task", (Spot, kind), {})
    if grant.mailbox:
        from agent.renew import keep, tell

        tell()
        grant = keep(grant, path)
    return grant, kind
