"""Small things that the modules inside the namespaces share."""

from __future__ import annotations

import subprocess

POWERED_OFF = 0
REBOOT = 133  # systemd-nspawn's exit status for a guest that wants another boot


def run(*command: str, cwd: str | None = None) -> None:
    """Run a program that says nothing unless it fails. Raise CalledProcessError with what it said."""
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, cwd=cwd)


def said(error: OSError | subprocess.CalledProcessError) -> str:
    """Why a call or a program failed, in a line."""
    if isinstance(error, OSError):
        return str(error)
    lines = (error.stderr or b"").decode("utf-8", "replace").strip().splitlines()
    return f"{error.cmd[0]}: {lines[-1] if lines else 'failed without a word'}"


def wait_for(process: subprocess.Popen[bytes]) -> int:
    """Wait for a child, like a shell: 128 and the signal's number when it was killed."""
    status = process.wait()
    return status if status >= 0 else 128 - status


def slirp(path: str, card: str, *options: str) -> list[str]:
    """The slirp4netns command that puts `card` into the network namespace at `path`."""
    return ["slirp4netns", "--netns-type=path", "--enable-seccomp", *options, path, card]
