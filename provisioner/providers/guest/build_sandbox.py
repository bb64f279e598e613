"""Runs the programs that build an image where nothing of them can outlive us or reach the host's mounts.

mmdebstrap as root mounts /dev, /dev/shm and the like below the folder that it fills. In the host's mount namespace
such a mount outlives an interrupted build, and deleting the folder then deletes what is mounted there. So each
program is process 1 of a mount and pid namespace of its own: when it ends the kernel ends all that it started, and the
mounts go with them. It is killed when we end, however that happens.
"""

from __future__ import annotations

import re
import subprocess
from typing import IO

from provisioner.errors import Refused, Unreachable
from provisioner.providers.guest.commands import last_line, output_of

SANDBOX = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
# What apt and mmdebstrap print about a mirror that isn't there, or doesn't have what it should.
_NETWORK = re.compile(rb"resolv|connect|fetch|timed out|mirror|apt-get update|download|Release file", re.IGNORECASE)


def run_sandboxed(command: list[str], log: IO[bytes] | None, failure: str) -> None:
    """Run a program, copy what it prints to `log`, and put what it prints of the cause into the error if it fails.

    Raise Unreachable when it could not reach a mirror, Refused otherwise.
    """
    piped, nothing = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen([*SANDBOX, *command], stdin=nothing, stdout=piped, stderr=subprocess.STDOUT) as process:
        output = output_of(process)
        cause = b""
        try:
            for line in output:
                # The first error is the cause, what follows are its consequences.
                cause = cause if cause.startswith(b"E: ") or not line.strip() else line
                if log:
                    log.write(line)
                    log.flush()
        except BaseException:  # Ctrl-C, which unshare ignores and Popen doesn't wait for
            process.kill()
            for _ in output:  # ends when nobody in the sandbox is left to write
                pass
            raise
    if process.returncode:
        message = f"{failure}: {command[0]}: {last_line(cause)}"
        if command[0] == "mmdebstrap" and _NETWORK.search(cause):
            raise Unreachable(message, hint="check that Debian's package mirror can be reached")
        raise Refused(message, hint="run it again with --verbose to see everything that it prints")
