"""Programs of the host: how the modules of this package run them, and what their failures are called."""

from __future__ import annotations

import subprocess
from typing import IO

POWERED_OFF = 0
REBOOT = 133  # systemd-nspawn's exit status for a guest that wants another boot


def run_quietly(*command: str, cwd: str | None = None) -> None:
    """Run a program that prints nothing unless it fails. Raise CalledProcessError with what it printed."""
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, cwd=cwd)


def describe_failure(error: OSError | subprocess.CalledProcessError) -> str:
    """Say in a line why a call or a program failed."""
    if isinstance(error, OSError):
        return str(error)
    return f"{error.cmd[0]}: {last_line(error.stderr or b'', 'it failed and printed nothing')}"


def last_line(output: bytes, default: str = "it printed nothing") -> str:
    """Return the last line of what a program printed, for a sentence."""
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else default


def output_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """Return the pipe that a program was started with as its output."""
    if process.stdout is None:
        raise ValueError("the program was started without a pipe for its output")
    return process.stdout


def exit_status(process: subprocess.Popen[bytes]) -> int:
    """Wait for a child. Return its exit status as a shell has it: 128 and the signal's number when it was killed."""
    status = process.wait()
    return status if status >= 0 else 128 - status


def slirp_command(path: str, card: str, *options: str) -> list[str]:
    """Return the slirp4netns command that puts `card` into the network namespace at `path`."""
    return ["slirp4netns", "--netns-type=path", "--enable-seccomp", *options, path, card]
