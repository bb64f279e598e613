"""The commands that people and scripts give, but for `run`: their options, and what a push says in the end."""

import json
import os
import signal
import sys
import time

from agent import __version__
from agent.main import Bad, say

GRANT = "/run/freepost/grant.json"
DOOR = "/run/freepost.sock"  # where a job whose user may not read the grant has its files stored (agent/push_client.py)

USAGE = """agent push [--as NAME] [--base DIR] [--bundle] [--split-over BYTES] [--limit-rate BYTES] [--workers N] FILE…
      agent check [--as NAME] [--base DIR] FILE…
      agent pull [--into DIR]
      agent run
      all but run: [--grant FILE] [--json]; BYTES may end in K, M, G or T
      push and check: [--broker URL --token-file FILE] in place of a grant"""
FLAGS = ("bundle", "json", "help", "version")
VALUED = ("grant", "as", "base", "split-over", "limit-rate", "workers", "into", "broker", "token-file")


def parse(words):
    """Return ({option: value}, other arguments)."""
    options, rest, words = {}, [], iter(words)
    for word in words:
        name, equals, value = word[2:].partition("=")
        if word == "--":
            rest += words
        elif word == "-h":
            options["help"] = True
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
        try:
            code = obey(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough; at the exit Python would write the rest of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return code


def obey(argv):
    """As `command`, but standard output may break."""

    def interrupt(*_):
        raise KeyboardInterrupt

    options, paths = parse(argv)
    if "help" in options:
        print("usage: " + USAGE)
        return 0
    if "version" in options:
        print("agent " + __version__)
        return 0
    name = paths.pop(0) if paths else ""
    if (name in ("push", "check") and not paths) or name not in ("push", "check", "pull"):
        raise Bad("usage: " + USAGE, 2)
    if paths == ["-"] and "as" not in options:
        raise Bad("standard input wants a name: --as NAME", 2)
    try:
        signal.signal(signal.SIGTERM, interrupt)
        if away(options):
            if name != "push":
                raise Bad("only root may read the grant here; push does without, and inputs are there already", 3)
            from agent.push_client import knock as carry_out
        elif name == "check":
            from agent.check import check as carry_out
        elif name == "pull":
            from agent.push_command import pull as carry_out
        else:
            from agent.push_command import push as carry_out
        return carry_out(options, paths)
    except ImportError as error:
        if not (error.name or "").startswith("agent."):
            raise
        raise Bad("%s is not in this VM, whose job has no need of it" % error.name, 2) from None
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


def away(options):
    """Tell whether a job's user asks, who may not read the grant, and `agent run` is there to act instead."""
    named = options.get("grant") or options.get("broker") or os.environ.get("FREEPOST_GRANT")
    return not (named or os.access(GRANT, os.R_OK)) and os.path.exists(DOOR)


def make(kind, options, grant, path):
    """Return a Pusher of a kind, as the options want it."""
    sizes = [number(options, *pair) for pair in (("workers", "32"), ("split-over", "1G"))]
    pusher = kind(grant, path + ".journal", *sizes, say=say)
    limit(pusher, number(options, "limit-rate", "0"))
    return pusher


def report(options, pusher, result):
    """Tell what became of a push, and store a manifest. Return the exit code."""
    from agent.http import Failed

    code, failed = result.exit_code, result.failed
    if result.stored or code not in (2, 3, 4):
        try:
            pusher.manifest(not code)
        except Failed as error:
            code, failed = code or error.exit, failed + [("the manifest", str(error))]
    for pair in failed:
        say("%s: %s" % pair)
    if code in (3, 4):
        for name in result.stored:
            say("stored before: %s" % name)
    say("%d files with %d bytes are stored, %d of them sent now; %d failed" % (result[:3] + (len(failed),)))
    if "json" in options:
        print(json.dumps(dict(result._asdict(), event="done", failed=failed, exit_code=code)))
    return code
