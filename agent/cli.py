"""`agent push` and `agent pull` for people and scripts: options, progress, and what they print."""

import json
import os
import signal
import sys
import time

from agent.command import Bad, load, say

GRANT = "/run/freepost/grant.json"
DOOR = "/run/freepost.sock"  # where a job whose user may not read the grant has its files stored (agent/knock.py)

USAGE = """agent push [--as NAME] [--base DIR] [--bundle] [--split-over BYTES] [--limit-rate BYTES] [--workers N] FILE…
      agent check [--as NAME] [--base DIR] FILE…
      agent pull [--into DIR]
      agent run
      all but run: [--grant FILE] [--json]; BYTES may end in K, M, G or T
      push and check: [--broker URL --token-file FILE] in place of a grant"""
ELSEWHERE = {
    "agent.check": "check is not in the VM: run it where the job was launched",
    "agent.pull": "there are no inputs",
}
FLAGS = ("bundle", "json", "help")
VALUED = ("grant", "as", "base", "split-over", "limit-rate", "workers", "into", "broker", "token-file")


def parse(words):
    """Return ({option: value}, other arguments)."""
    options, rest, words = {}, [], iter(words)
    for word in words:
        name, equals, value = word[2:].partition("=")
        if word == "--":
            rest += words
        elif word[:2] != "--":
            rest.append(word)
        elif name in FLAGS and not equals:
            options[name] = True
        elif name in VALUED:
            options[name] = value if equals else next(words, "")
            if not options[name]:
                raise Bad("--%s wants a value" % name, 2)
        else:
            raise Bad("there is no option %s; usage: %s" % (ascii(word), USAGE), 2)
    return options, rest


def command(argv):
    """Carry out any command but `run`. Return the exit code."""
    code = 6
    try:
        code = obey(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough; at the exit Python would write the rest of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return code


def obey(argv):
    """As `command`, but standard output may break."""

    def interrupt(*_):
        raise KeyboardInterrupt

    if "--help" in argv:
        print("usage: " + USAGE)
        return 0
    name = argv[0] if argv else ""
    options, paths = parse(argv[1:])
    if (name in ("push", "check") and not paths) or name not in ("push", "check", "pull"):
        raise Bad("usage: " + USAGE, 2)
    try:
        signal.signal(signal.SIGTERM, interrupt)
        return {"push": push, "check": check, "pull": pull}[name](options, paths)
    except ImportError as error:
        if error.name not in ELSEWHERE:
            raise
        raise Bad(ELSEWHERE[error.name], 2) from None
    except KeyboardInterrupt:
        say("agent: interrupted; what is stored stays stored, and the same command sends the rest")
        return 130


def number(options, name, default):
    """Return an option's number."""
    text = options.get(name, default)
    try:
        unit = "KMGT".find(text[-1]) + 1
        return int(float(text[: -1 if unit else None]) * 1024**unit)
    except (ValueError, OverflowError):
        raise Bad("--%s wants a number (such as 64M)" % name, 2) from None


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


def limit(pusher, rate):
    """Keep a pusher to `rate` bytes a second; 0 is no limit."""
    paced, free = pusher.pace, [0]

    def pace(count):
        paced(count)
        now = time.time()
        free[0] = max(free[0], now) + count / rate
        pusher.over.wait(free[0] - now)

    if rate:
        pusher.alone, pusher.pace = True, pace


def source(options):
    """Return the grant that the options name, or the one that a broker gives, and its path."""
    if "broker" not in options:
        return load(options.get("grant"))
    from agent.broker import obtain

    return obtain(options["broker"], options.get("token-file"), say)


def away(options):
    """Tell whether a job's user asks, who may not read the grant, and `agent run` is there to act instead."""
    named = options.get("grant") or options.get("broker") or os.environ.get("FREEPOST_GRANT")
    return not (named or os.access(GRANT, os.R_OK)) and os.path.exists(DOOR)


def push(options, paths):
    """Store files."""
    if paths == ["-"] and "as" not in options:
        raise Bad("standard input wants a name: --as NAME", 2)
    if away(options):
        from agent.knock import knock

        return knock(DOOR, options, paths, say)

    def go(pusher):
        if paths != ["-"]:
            return pusher.push(paths, options.get("base", "."), options.get("as"), "bundle" in options)
        from agent.stream import pour

        with open(0, "rb", 0, closefd=False) as file:
            return pour(pusher, file, options["as"])

    from agent.push import Pusher

    return deliver(options, *source(options), go, Pusher)


def deliver(options, grant, path, go, make):
    """Tell how `go(pusher)` gets on, with a Pusher that is made by `make`, and what it gave. Return the exit code."""
    from agent.hurry import order
    from agent.post import Failed

    sizes = [number(options, *pair) for pair in (("workers", "32"), ("split-over", "1G"))]
    pusher = make(grant, path + ".journal", *sizes, say=say)
    limit(pusher, number(options, "limit-rate", "0"))
    pusher.progress = Progress(pusher, "json" in options)
    pusher.order = lambda items: order(pusher, items)
    result = go(pusher)
    code, failed = result.exit_code, result.failed
    if result.stored or code not in (2, 3, 4):
        try:
            pusher.manifest(not code)
        except Failed as error:
            code, failed = code or error.exit, failed + [("the manifest", str(error))]
    if pusher.progress.line:
        sys.stderr.write("\r\x1b[K")
    for pair in failed:
        say("%s: %s" % pair)
    if code in (3, 4):
        for name in result.stored:
            say("stored before: %s" % name)
    say("%d files with %d bytes are stored, %d of them sent now; %d failed" % (result[:3] + (len(failed),)))
    if "json" in options:
        print(json.dumps(dict(result._asdict(), event="done", failed=failed, exit_code=code)))
    return code


def check(options, paths):
    """Tell what the policy would refuse."""
    if away(options):
        raise Bad("only root may read the grant here; `agent push` does without it", 3)
    from agent.check import check

    return check(options, paths)


def pull(options, _):
    """Fetch the inputs."""
    if "broker" in options:
        raise Bad("a broker's grant names no inputs", 2)
    if away(options):
        raise Bad("only root may read the grant here; the inputs were fetched before the job began", 3)
    from agent.pull import pull

    failed = pull(load(options.get("grant"))[0], options.get("into", "."), say)
    for pair in failed:
        say("%s: %s" % pair)
    return max([failure.exit for _, failure in failed] or [0])
