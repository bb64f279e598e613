"""The `agent` command: argv to exit code. Every VM has `agent run`; the other commands are in `agent.commands`.

Exit codes (`agent.errors.ExitCode`)::

    0    OK                 done; of `agent run`: the job succeeded
    1    JOB_FAILED         the job failed
    2    USAGE              no such command, option or file, or a part of the agent that this VM doesn't have
    3    NO_GRANT           there is no grant, or it can't be read
    4    EXPIRED            the grant has expired
    5    REFUSED            the store refused
    6    SOME_FAILED        some files failed
    7    UNREACHABLE        the store can't be reached, or doesn't answer
    8    DAMAGED            what arrived is not what was sent
    9    UNSUPPORTED_GRANT  the grant is of a version that this agent doesn't know
    130  INTERRUPTED        interrupted by a signal; of `agent run`: the job was
"""

import sys

from agent.console import CommandError, say
from agent.errors import ExitCode
from agent.grantfile import load


def main(argv=None):
    """Carry out a command. Return the exit code."""
    argv = argv or sys.argv[1:]
    try:
        if argv == ["run"]:
            from agent.task import run  # only here: it takes longer to load than a small push takes

            try:
                from agent.remote_grant import load_own
            except ImportError:  # most VMs have no need of it
                load_own = load
            return run(*load_own())
        from agent.commands import command  # it may not be packed

        return command(argv)
    except ImportError as error:
        if error.name != "agent.commands":
            raise
        say("agent: this VM has only what runs its job")
        return ExitCode.USAGE
    except CommandError as error:
        say("agent: " + error.args[0])
        return error.args[1]
    except OSError as error:
        say("agent: %s" % error)
        return ExitCode.SOME_FAILED
