"""What the commands say to people, and the error that ends one."""

import sys


class CommandError(Exception):
    """The command can't be carried out: args are a sentence and the ExitCode."""


def say(text):
    """Tell people, on standard error."""
    print(text, file=sys.stderr, flush=True)
