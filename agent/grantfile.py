"""Finds, reads and replaces the file that holds the grant."""

import os

from agent.console import CommandError
from agent.errors import ExitCode
from agent.grant import GrantError, parse
from agent.layout import GRANT, GRANT_VARIABLE


def load(path=None):
    """Return the grant and its path: the given one, FREEPOST_GRANT's, or where cloud-init puts it.

    Raise CommandError.
    """
    path = path or os.environ.get(GRANT_VARIABLE) or GRANT
    try:
        with open(path, "rb") as file:
            return parse(file.read()), os.path.abspath(path)
    except OSError as error:
        raise CommandError("the grant: %s" % error, ExitCode.NO_GRANT) from None
    except GrantError as error:
        raise CommandError(str(error), error.exit) from None


def replace(path, data):
    """Write a file (bytes) in one step, for its owner alone: a reader finds the old content or the new one."""
    fresh = path + ".new"
    if os.path.exists(fresh):
        os.unlink(fresh)  # of a process that was killed; it can't be opened for writing
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, path)
