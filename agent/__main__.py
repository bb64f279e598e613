"""`python -m agent` is `agent`."""

import sys

from agent.renew import start


def main():
    """Carry out a command, renewing its grant where that has a mailbox. Return the exit code."""
    from agent.command import main as carry_out

    start()
    return carry_out()


if __name__ == "__main__":
    sys.exit(main())
