"""Runs the programs that build an image where nothing of them can outlive us or reach the host's mounts.

mmdebstrap as root mounts /dev, /dev/shm and the like below the folder that it fills. In the host's mount namespace
such a mount outlives an interrupted build, and whoever deletes the folder deletes what is mounted there. So each
program is process 1 of a mount and pid namespace of its own: when it ends the kernel ends all that it started, and the
mounts go with them. It is killed when we end, however that happens.
"""

from __future__ import annotations

import re
import subprocess
from typing import IO

from provisioner.errors import Refused, Unreachable

CAGE = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
# What apt and mmdebstrap say of a mirror that isn't there, or doesn't have what it should.
_NETWORK = re.compile(rb"resolv|connect|fetch|timed out|mirror|apt-get update|download|Release file", re.IGNORECASE)


def run(command: list[str], log: IO[bytes] | None, failure: str) -> None:
    """Run a program, copy what it says to `log`, and put what it says of the cause into the error if it fails.

    Raise Unreachable when it could not reach a mirror, Refused otherwise.
    """
    piped, nothing = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen([*CAGE, *command], stdin=nothing, stdout=piped, stderr=subprocess.STDOUT) as process:
        assert process.stdout  # noqa: S101 - for mypy: it is a pipe
        said = b""
        try:
            for line in process.stdout:
                # The first error is the cause, what follows are its consequences.
                said = said if said.startswith(b"E: ") or not line.strip() else line
                if log:
                    log.write(line)
                    log.flush()
        except BaseException:  # Ctrl-C, which unshare doesn't heed, and for whose effect Popen doesn't wait
            process.kill()
            for _ in process.stdout:  # ends when nobody in the cage is left to write
                pass
            raise
    if process.returncode:
        message = f"{failure}: {command[0]}: {last_line(said)}"
        if command[0] == "mmdebstrap" and _NETWORK.search(said):
            raise Unreachable(message, hint="Is Debian's package mirror reachable?")
        raise Refused(message, hint="Run it again with --verbose to see all that it says.")


def last_line(said: bytes) -> str:
    """The last line of what a program said, for a sentence."""
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
