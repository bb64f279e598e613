"""The `agent` command: argv to exit code, and the only module that prints.

Exit codes: 0 ok; 2 usage; 3 no or unreadable grant; 4 expired; 5 refused; 6 some files failed; 7 store unreachable;
8 integrity; 9 grant of an unsupported version; 130 interrupted.
"""

import json
import os
import signal
import sys
import time

from agent import grant as grants

USAGE = """usage: agent push [options] FILE… | -     store files, directories, patterns or standard input (-)
       agent run | pull | check FILE…
options: --grant FILE  --as NAME  --base DIR  --bundle  --json  --split-over BYTES  --limit-rate BYTES  --workers N
         (pull) --into DIR   (run) --task FILE --workdir DIR"""


class Bad(Exception):
    """The command ends with args[1], saying args[0]."""


def parse(argv):
    """Return (options, other arguments)."""
    options, rest = {}, []
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += words
        elif word[:2] != "--":
            rest.append(word)
        else:
            name, _, value = word[2:].partition("=")
            if not value and name not in ("bundle", "json", "help", "no-user"):
                value = next(words, "")
            if not re_option(name):
                raise Bad("there is no option --%s\n%s" % (name, USAGE), 2)
            options[name] = value
    return options, rest


def re_option(name):
    return name in "grant as base bundle json split-over limit-rate workers into task workdir no-user help".split()


def number(text):
    """Read bytes, with K, M, G or T (1024) after the number."""
    unit = "KMGT".find(text[-1:].upper()) + 1 if text else 0
    try:
        return int(float(text[:-1] if unit else text) * 1024**unit)
    except ValueError:
        raise Bad("%s is no number (such as 64M)" % text, 2) from None


def load(options):
    """Return the grant and its path."""
    path = options.get("grant") or os.environ.get("FREEPOST_GRANT") or "/run/freepost/grant.json"
    try:
        with open(path, "rb") as file:
            return grants.parse(file.read()), path
    except OSError as error:
        raise Bad("the grant %s: %s" % (path, error.strerror), 3) from None
    except grants.UnsupportedVersion as error:
        raise Bad(str(error), 9) from None
    except grants.GrantError as error:
        raise Bad("%s: %s" % (path, error), 3) from None


def say(text):
    """Tell people."""
    print(text, file=sys.stderr)


def push(options, paths):
    """`agent push`."""
    from agent.post import Failed
    from agent.push import Pusher

    if not paths:
        raise Bad("which files? " + USAGE, 2)
    grant, path = load(options)
    pusher = Pusher(
        grant,
        path + ".journal",
        int(options.get("workers", 32)),
        number(options.get("split-over", "1G")),
        number(options.get("limit-rate", "0")),
        say,
    )
    if paths == ["-"]:
        if not options.get("as"):
            raise Bad("standard input needs a name: --as NAME", 2)
        with open(0, "rb", 0, closefd=False) as file:
            result = pusher.pour(file, options["as"])
    else:
        result = pusher.push(paths, options.get("base", "."), options.get("as"), "bundle" in options)
    code = result.exit_code
    try:
        pusher.manifest(not code)
    except Failed as error:
        say("the manifest: %s" % error)
        code = code or error.exit
    for name, text in result.failed:
        say("%s: %s" % (name, text))
    text = "%d files, %d bytes stored; %d sent, %d failed" % (result.files, result.bytes, result.sent, len(result.failed))
    say(text)
    return code


def main(argv=None):
    """Run one command. Return the exit code."""

    def interrupt(*_):
        raise KeyboardInterrupt

    try:
        argv = sys.argv[1:] if argv is None else argv
        signal.signal(signal.SIGTERM, interrupt)
        command = argv[0] if argv else ""
        if command == "run":
            from agent import task

            options, _ = parse(argv[1:])
            return task.run(*load(options), options, say)
        options, rest = parse(argv[1:])
        if command not in ("push",):
            raise Bad(USAGE, 2)
        return push(options, rest)
    except Bad as error:
        say("agent: " + error.args[0])
        return error.args[1]
    except KeyboardInterrupt:
        say("agent: interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
