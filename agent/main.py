"""The `agent` command: argv to exit code. Every VM has `agent run`; the other commands are in `agent.commands`.

Exit codes: 0 ok; 1 the job failed; 2 usage; 3 no or unreadable grant; 4 expired; 5 refused; 6 some files failed;
7 store unreachable; 8 integrity; 9 grant of an unsupported version; 130 interrupted.
"""

import os
import sys

from agent import grant as grants


class Bad(Exception):
    """The command can't be carried out: args are a sentence and the exit code."""


def load(path=None):
    """Return the grant and its path: the given one, FREEPOST_GRANT's, or where cloud-init puts it. Raise Bad."""
    path = path or os.environ.get("FREEPOST_GRANT") or "/run/freepost/grant.json"
    try:
        with open(path, "rb") as file:
            return grants.parse(file.read()), os.path.abspath(path)
    except OSError as error:
        raise Bad("the grant: %s" % error, 3) from None
    except grants.GrantError as error:
        raise Bad(str(error), 9 if isinstance(error, grants.UnsupportedVersion) else 3) from None


def say(text):
    """Tell people."""
    print(text, file=sys.stderr, flush=True)


def main(argv=None):
    """Carry out a command. Return the exit code."""
    argv = argv or sys.argv[1:]
    try:
        if argv == ["run"]:
            from agent.task import run

            try:
                from agent.remote_grant import own as load_own
            except ImportError:  # most VMs have no need of it
                load_own = load
            return run(*load_own())
        from agent.commands import command

        return command(argv)
    except ImportError as error:
        if error.name != "agent.commands":
            raise
        say("agent: this VM has only what runs its job")
        return 2
    except Bad as error:
        say("agent: " + error.args[0])
        return error.args[1]
    except OSError as error:
        say("agent: %s" % error)
        return 6
