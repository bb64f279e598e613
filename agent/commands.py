"""All commands but `run`: push, check and pull, which people and scripts call."""

import os
import signal
import sys

from agent import __version__
from agent.console import CommandError, say
from agent.errors import ExitCode
from agent.layout import GRANT, GRANT_VARIABLE, SOCKET
from agent.options import USAGE, parse


def command(argv):
    """Carry out any command but `run`. Return the exit code."""
    code = ExitCode.SOME_FAILED
    try:
        try:
            code = run_command(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has closed it; at exit Python would write the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return code


def run_command(argv):
    """As `command`, but standard output may break."""

    def interrupt(*_):
        raise KeyboardInterrupt

    options, paths = parse(argv)
    if "help" in options:
        print("usage: " + USAGE)
        return ExitCode.OK
    if "version" in options:
        print("agent " + __version__)
        return ExitCode.OK
    name = paths.pop(0) if paths else ""
    if (name in ("push", "check") and not paths) or name not in ("push", "check", "pull"):
        raise CommandError("usage: " + USAGE, ExitCode.USAGE)
    if paths == ["-"] and "as" not in options:
        raise CommandError("standard input needs a name: --as NAME", ExitCode.USAGE)
    try:
        signal.signal(signal.SIGTERM, interrupt)
        return find_command(name, options)(options, paths)
    except ImportError as error:
        if not (error.name or "").startswith("agent."):
            raise
        text = "%s is not in this VM, whose job has no need of it" % error.name
        raise CommandError(text, ExitCode.USAGE) from None
    except KeyboardInterrupt:
        say("agent: interrupted; what is stored stays stored, and the same command sends the rest")
        return ExitCode.INTERRUPTED


def find_command(name, options):
    """Return the function that carries out a command. Raise CommandError, or ImportError: a VM may not have it."""
    if uses_push_server(options):
        if name != "push":
            text = "only root may read the grant here; push does without, and inputs are there already"
            raise CommandError(text, ExitCode.NO_GRANT)
        from agent.push_client import push
    elif name == "check":
        from agent.check import check

        return check
    elif name == "pull":
        from agent.push_command import pull

        return pull
    else:
        from agent.push_command import push
    return push


def uses_push_server(options):
    """Tell whether the caller may not read the grant, so that the push server of `agent run` has to push for it."""
    named = options.get("grant") or options.get("broker") or os.environ.get(GRANT_VARIABLE)
    return not (named or os.access(GRANT, os.R_OK)) and os.path.exists(SOCKET)
