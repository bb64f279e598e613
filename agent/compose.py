"""Builds what a command runs with, from what the grant and the task ask for. Nothing else puts these parts together.

This module isn't in the core: without it `agent run` uploads with the grant that it has, and has no companions. Each
part is imported only when it is asked for, because a VM has only the modules that its job may need.

A companion acts beside the job of `agent run`: see `agent.companion`.
"""

from contextlib import suppress

from agent.upload import new_uploader


def compose(grant, path, task=None, renewal=None):
    """Return what `agent run` runs a `task` with, or another command runs with, by the grant in the file `path`.

    That is (until, make_uploader, companions): when uploads must end, in seconds since 1970; a function that returns
    an uploader, called as `agent.upload.new_uploader` is; and a list of Companions, empty unless there is a task.
    `renewal` is the broker's. Raise ImportError when a part isn't in this VM.
    """
    companions = []
    if grant.mailbox and not renewal:
        from agent.renew import mailbox_renewal

        renewal = mailbox_renewal(grant, path)
    if task and task["user"]:
        with suppress(ImportError):  # it had no room in the user-data, as was said when that was rendered
            from agent.push_server import ServerCompanion

            companions.append(ServerCompanion(path, compose))
    if task and task.get("spot"):
        from agent.spot import SpotCompanion

        companions.append(SpotCompanion())
    if not renewal:
        return grant.expires, new_uploader, companions
    if task:
        from agent.renew import ExpiryReporter

        companions.append(ExpiryReporter())
    return renewal.until, renewal.make_uploader, companions
