"""`agent push` and `agent pull` for callers that can read the grant."""

import time

from agent.compose import compose
from agent.console import CommandError, say
from agent.errors import ExitCode
from agent.grantfile import load
from agent.options import new_pusher
from agent.push import Pusher
from agent.report import Progress, report


def find_grant(options):
    """Return the grant that the options name, or the one that a broker gives, its path, and the broker's Renewal.

    Raise CommandError.
    """
    if "broker" not in options:
        return load(options.get("grant")) + (None,)
    from agent.broker import obtain  # nowhere in a VM whose job can't call it

    return obtain(options["broker"], options.get("token-file"), say)


def most_urgent_first(pusher, items):
    """Return items in the order given or, when by the rate of earlier pushes time is short, logs and small first."""
    left = min(pusher.deadline or pusher.grant.expires, pusher.grant.expires) - time.time()
    need = sum(item.size for item in items) / (pusher.journal.rate or 1e99)
    if need < left:
        return items
    pusher.say("warning: this takes %d s and %d s are left; small files go first" % (need, left))
    return sorted(items, key=lambda item: (not item.name.endswith(".log"), item.size))


def push(options, paths):
    """Store files. Return the exit code; raise CommandError."""
    grant, path, renewal = find_grant(options)
    until, make_uploader, _ = compose(grant, path, renewal=renewal)
    grant = grant._replace(expires=until)
    pusher = new_pusher(Pusher, options, grant, path)
    pusher.make_uploader = make_uploader
    pusher.progress = progress = Progress(pusher, "json" in options)
    pusher.order = lambda items: most_urgent_first(pusher, items)
    if paths != ["-"]:
        result = pusher.push(paths, options.get("base", "."), options.get("as"), "bundle" in options)
    else:
        from agent.push_stream import push_stream  # loaded for streams alone

        with open(0, "rb", 0, closefd=False) as file:
            result = push_stream(pusher, file, options["as"])
    progress.clear()
    return report(options, pusher, result)


def pull(options, _):
    """Fetch the inputs. Return the exit code; raise CommandError."""
    if "broker" in options:
        raise CommandError("a broker's grant names no inputs", ExitCode.USAGE)
    from agent.pull import pull  # it may not be packed

    failed = pull(load(options.get("grant"))[0], options.get("into", "."), say)
    for pair in failed:
        say("%s: %s" % pair)
    return max([error.exit for _, error in failed] or [ExitCode.OK])
