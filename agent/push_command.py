"""`agent push` and `agent pull` by whoever can read the grant, and how far they are."""

import json
import sys
import time

from agent.commands import make, report
from agent.hurry import order
from agent.main import Bad, load, say
from agent.push import Pusher


class Progress:
    """Shows how far a push is: one line on a terminal, a line now and then elsewhere, events as JSON."""

    def __init__(self, pusher, as_json):
        self.pusher, self.json, self.line = pusher, as_json, sys.stderr.isatty() and not as_json
        self.began = self.shown = time.time()
        self.files = self.bytes = 0

    def __call__(self, files, size):  # noqa: D102 - as the class says
        self.files += files
        self.bytes += size
        now = time.time()
        if now - self.shown < (0.2 if self.line else 10):
            return None
        self.shown = now
        files, total = self.pusher.total
        rate = self.bytes / (now - self.began)
        left = max(0, total - self.bytes) / (rate or 1)
        if self.json:
            event = {
                "event": "progress",
                "files": self.files,
                "bytes": self.bytes,
                "rate": int(rate),
                "left": int(left),
            }
            return print(json.dumps(event), flush=True)
        numbers = self.files, files, self.bytes / 1e6, total / 1e6, rate / 1e6, left // 60, left % 60
        text = "%d of %d files, %.0f of %.0f MB, %.1f MB/s, %d:%02d left" % numbers
        sys.stderr.write("\r%s\x1b[K" % text if self.line else text + "\n")
        sys.stderr.flush()


def source(options):
    """Return the grant that the options name, or the one that a broker gives, kept alive, and its path."""
    if "broker" not in options:
        grant, path = load(options.get("grant"))
        if grant.mailbox:
            from agent.renew import keep

            grant = keep(grant, path)
        return grant, path
    from agent.broker import obtain

    return obtain(options["broker"], options.get("token-file"), say)


def push(options, paths):
    """Store files."""

    def go(pusher):
        if paths != ["-"]:
            return pusher.push(paths, options.get("base", "."), options.get("as"), "bundle" in options)
        from agent.push_stream import pour

        with open(0, "rb", 0, closefd=False) as file:
            return pour(pusher, file, options["as"])

    pusher = make(Pusher, options, *source(options))
    pusher.progress = Progress(pusher, "json" in options)
    pusher.order = lambda items: order(pusher, items)
    result = go(pusher)
    if pusher.progress.line:
        sys.stderr.write("\r\x1b[K")
    return report(options, pusher, result)


def pull(options, _):
    """Fetch the inputs."""
    if "broker" in options:
        raise Bad("a broker's grant names no inputs", 2)
    from agent.pull import pull

    failed = pull(load(options.get("grant"))[0], options.get("into", "."), say)
    for pair in failed:
        say("%s: %s" % pair)
    return max([failure.exit for _, failure in failed] or [0])
