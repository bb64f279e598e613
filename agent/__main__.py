"""The `agent` command: argv to exit code, and the only module that prints.

Exit codes: 0 ok; 1 the job failed; 2 usage; 3 no or unreadable grant; 4 expired; 5 refused; 6 some files failed;
7 store unreachable; 8 integrity; 9 grant of an unsupported version; 130 interrupted.
"""

import json
import os
import signal
import sys
import time

from agent import grant as grants

USAGE = """agent push [--as NAME] [--base DIR] [--bundle] [--split-over BYTES] [--limit-rate BYTES] [--workers N] FILE…|-
      agent check [--as NAME] [--base DIR] FILE…
      agent pull [--into DIR]
      agent run [--task FILE] [--workdir DIR] [--no-user]
      all: [--grant FILE] [--json]; BYTES may end in K, M, G or T"""
FLAGS = ("bundle", "json", "help", "no-user")
VALUED = ("grant", "as", "base", "split-over", "limit-rate", "workers", "into", "task", "workdir")


class Bad(Exception):
    """The command can't be carried out: args are a sentence and the exit code."""


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


def number(options, name, default):
    """Return an option's number."""
    text = options.get(name, default)
    try:
        unit = "KMGT".find(text[-1]) + 1
        return int(float(text[: -1 if unit else None]) * 1024**unit)
    except (ValueError, OverflowError):
        raise Bad("--%s wants a number (such as 64M)" % name, 2) from None


def load(options):
    """Return the grant and its path."""
    path = options.get("grant") or os.environ.get("FREEPOST_GRANT") or "/run/freepost/grant.json"
    try:
        with open(path, "rb") as file:
            return grants.parse(file.read()), path
    except OSError as error:
        raise Bad("the grant %s can't be read: %s" % (ascii(path), error.strerror), 3) from None
    except grants.GrantError as error:
        raise Bad(str(error), 9 if isinstance(error, grants.UnsupportedVersion) else 3) from None


def say(text):
    """Tell people."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Shows how far a push is: one line on a terminal, a line now and then elsewhere, events as JSON."""

    def __init__(self, pusher, as_json):
        self.pusher, self.json, self.line = pusher, as_json, sys.stderr.isatty() and not as_json
        self.began = self.shown = time.time()
        self.files = self.bytes = 0

    def __call__(self, files, size):
        self.files += files
        self.bytes += size
        now = time.time()
        if now - self.shown < (0.2 if self.line else 10):
            return
        self.shown = now
        files, total = self.pusher.total
        rate = self.bytes / (now - self.began)
        left = max(0, total - self.bytes) / (rate or 1)
        if self.json:
            event = {"event": "progress", "files": self.files, "bytes": self.bytes, "rate": int(rate), "left": int(left)}
            return print(json.dumps(event), flush=True)
        numbers = self.files, files, self.bytes / 1e6, total / 1e6, rate / 1e6, left // 60, left % 60
        text = "%d of %d files, %.0f of %.0f MB, %.1f MB/s, %d:%02d left" % numbers
        sys.stderr.write("\r%s\x1b[K" % text if self.line else text + "\n")
        sys.stderr.flush()


def push(options, paths):
    """Store files."""
    from agent.post import Failed
    from agent.push import Pusher

    grant, path = load(options)
    sizes = [number(options, *pair) for pair in (("workers", "32"), ("split-over", "1G"), ("limit-rate", "0"))]
    pusher = Pusher(grant, path + ".journal", *sizes, say=say)
    pusher.progress = Progress(pusher, "json" in options)
    if paths != ["-"]:
        result = pusher.push(paths, options.get("base", "."), options.get("as"), "bundle" in options)
    elif "as" not in options:
        raise Bad("standard input wants a name: --as NAME", 2)
    else:
        with open(0, "rb", 0, closefd=False) as file:
            result = pusher.pour(file, options["as"])
    code, failed = result.exit_code, result.failed
    if result.stored or code not in (2, 4):
        try:
            pusher.manifest(not code)
        except Failed as error:
            code, failed = code or error.exit, failed + [("the manifest", str(error))]
    if pusher.progress.line:
        say("\r\x1b[K")
    for pair in failed:
        say("%s: %s" % pair)
    if code == 4:
        for name in result.stored:
            say("stored before: %s" % name)
    say("%d files with %d bytes are stored, %d of them sent now; %d failed" % (result[:3] + (len(failed),)))
    if "json" in options:
        print(json.dumps(dict(result._asdict(), event="done", failed=failed, exit_code=code)))
    return code


def check(options, paths):
    """Tell what the policy would refuse, and why."""
    from agent.files import scan
    from agent.push import PART

    outputs, code, split = load(options)[0].outputs, 0, number(options, "split-over", "1G")
    high = outputs.size_range()[1]
    items, failed = scan(paths, options.get("base", "."), options.get("as"), say)
    report = {name: [str(failure)] for name, failure in failed.items()}
    for name, item in items.items():
        key, size = outputs.prefix + name, item.size
        if size > min(split, high):
            key, size = key + ".parts/00001", min(PART, high)
        sums = {"x_amz_checksum_sha256": 44 * "A"} if outputs.covers("x-amz-checksum-sha256") else {}
        report[name] = outputs.violations(outputs.form(key, **sums), size, time.time()) if size >= 0 else []
    for name, faults in report.items():
        "json" in options or print("%s: %s" % (name, "; ".join(faults) or "ok"))
        code = code or 5 * bool(faults)
    if "json" in options:
        print(json.dumps(report))
    return 2 if failed else code


def pull(options, _):
    """Fetch the inputs."""
    from agent.pull import pull

    failed = pull(load(options)[0], options.get("into", "."), say)
    for pair in failed:
        say("%s: %s" % pair)
    return max([failure.exit for _, failure in failed] or [0])


def run(options, _):
    """Run the task."""
    from agent import task

    grant, path = load(options)
    return task.run(grant, path, options, say)


def main(argv=None):
    """Carry out a command. Return the exit code."""

    def interrupt(*_):
        raise KeyboardInterrupt

    argv = sys.argv[1:] if argv is None else argv
    try:
        signal.signal(signal.SIGTERM, interrupt)
        command = {"push": push, "check": check, "pull": pull, "run": run}.get(argv[0] if argv else "")
        options, paths = parse(argv[1:])
        if not command or "help" in options or command in (push, check) and not paths:
            raise Bad("usage: " + USAGE, 0 if "--help" in argv else 2)
        return command(options, paths)
    except Bad as error:
        say("agent: " + error.args[0])
        return error.args[1]
    except OSError as error:
        say("agent: %s" % error)
        return 6
    except KeyboardInterrupt:
        say("agent: interrupted; what is stored stays stored, and the same command sends the rest")
        return 130


if __name__ == "__main__":
    sys.exit(main())
