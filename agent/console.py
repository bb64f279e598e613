"""What every command shares: messages to people, and the error that ends a command."""

import sys


class CommandError(Exception):
    """The command can't be carried out: args are a sentence and the ExitCode."""


def say(text):
    """Print a line for people, on standard error."""
    print(text, file=sys.stderr, flush=True)
