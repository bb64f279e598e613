"""`python -m provisioner` is `provision`."""

import gc
import sys

from provisioner.cli.app import main


def run() -> int:
    """Run the command that the process was started for. Return its exit code."""
    code = main()
    gc.freeze()  # the interpreter looks for cycles when it ends, in megabytes of botocore's models too: for nothing
    return code


if __name__ == "__main__":
    sys.exit(run())
