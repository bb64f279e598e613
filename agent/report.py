"""Reports of a push: its progress, and its result."""

import json
import sys
import time

from agent.console import say
from agent.errors import ExitCode, TransferError


class Progress:
    """Shows how far a push is: one line on a terminal, a line now and then elsewhere, events as JSON."""

    def __init__(self, pusher, as_json):
        self.pusher, self.json, self.line = pusher, as_json, sys.stderr.isatty() and not as_json
        self.began = self.shown = time.time()
        self.files = self.bytes = 0

    def __call__(self, files, size):
        """Show the progress: so many more files and bytes."""
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

    def clear(self):
        """Take away the line on the terminal."""
        if self.line:
            sys.stderr.write("\r\x1b[K")


def report(options, pusher, result):
    """Store a manifest after a push, and print the result. Return the exit code."""
    code, failed = result.exit_code, result.failed
    if result.stored or code not in (ExitCode.USAGE, ExitCode.NO_GRANT, ExitCode.EXPIRED):
        try:
            pusher.manifest(not code)
        except TransferError as error:
            code, failed = code or error.exit, failed + [("the manifest", str(error))]
    for pair in failed:
        say("%s: %s" % pair)
    if code in (ExitCode.NO_GRANT, ExitCode.EXPIRED):
        for name in result.stored:
            say("stored before: %s" % name)
    say("%d files with %d bytes are stored, %d of them sent now; %d failed" % (result[:3] + (len(failed),)))
    if "json" in options:
        print(json.dumps(dict(result._asdict(), event="done", failed=failed, exit_code=code)))
    return code
