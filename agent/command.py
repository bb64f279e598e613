"""The `agent` command: argv to exit code, and the only module that prints.

Exit codes: 0 ok; 1 the job failed; 2 usage; 3 no or unreadable grant; 4 expired; 5 refused; 6 some files failed;
7 store unreachable; 8 integrity; 9 grant of an unsupported version; 130 interrupted.
"""

import os
import signal
import sys

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


def find(name):
    """Return the function that carries out a command."""
    if name == "run":
        from agent.task import run
    elif name == "check":
        from agent.check import check as run
    elif name == "pull":
        from agent.cli import pull as run
    elif name == "push":
        from agent.cli import push as run
    else:
        raise Bad("usage: " + USAGE, 0 if name == "--help" else 2)
    return run


def main(argv=None):
    """Carry out a command. Return the exit code."""

    def interrupt(*_):
        raise KeyboardInterrupt

    argv = sys.argv[1:] if argv is None else argv
    try:
        signal.signal(signal.SIGTERM, interrupt)
        if "--help" in argv:
            argv = ["--help"]
        options, paths = parse(argv[1:])
        return find(argv[0] if argv else "")(options, paths)
    except ImportError:
        say("agent: job.yaml doesn't mention the agent, so this VM's has only `agent run`")
        return 2
    except Bad as error:
        say("agent: " + error.args[0])
        return error.args[1]
    except OSError as error:
        say("agent: %s" % error)
        return 6
    except KeyboardInterrupt:
        say("agent: interrupted; what is stored stays stored, and the same command sends the rest")
        return 130
