"""The operator's own files that a job names: what is wrong with them, and what is in them."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from pathlib import Path, PurePosixPath

from provisioner import units
from provisioner.job.problems import Location, show
from provisioner.s3url import BUCKET, SCHEME, is_s3_url

INLINE_LIMIT = 64 * 1024**2  # bytes of `run.files` together; what has no room in the user-data goes to the bucket
# No empty segment, none that is `..`, not absolute, not a folder, no control characters.
RELATIVE = r"^(?!/)(?!(?:.*/)?\.\.(?:/|$))(?!.*//)(?!\.?$)(?!.*/\.?$)[^\x00-\x1f\x7f]+$"
_OBJECT = re.compile(rf"^{SCHEME}{BUCKET}/(?!/)[^\x00-\x1f\x7f?]*[^\x00-\x1f\x7f?/]$")
_NAME_LIMIT = 255  # bytes in one segment of a path (Linux, limits.h: NAME_MAX)

_ELSEWHERE_HINT = "; for a file from elsewhere write source: (where it is) and path: (where it lands)"


def destination(source: str) -> str:
    """Say where a file lands that has no `path` of its own: where it is beside job.yaml, else under its own name."""
    if is_s3_url(source) or not re.search(RELATIVE, source):
        return PurePosixPath(source).name
    return posixpath.normpath(source)


def mode(path: Path) -> str:
    """Say the mode of a local file in the job's directory: only whether it is executable is kept."""
    return "0755" if path.stat().st_mode & stat.S_IXUSR else "0644"


def check_path(value: str, at: Location) -> None:
    """Fault a destination that no Linux file system takes."""
    if any(len(os.fsencode(each)) > _NAME_LIMIT for each in value.split("/")):
        at.fault(show(value), f"names of at most {_NAME_LIMIT} bytes between slashes")


def check_inline(value: str, at: Location) -> None:
    """Fault a local file that can't travel in the user-data."""
    if check_local(value, at) and (size := (at.faults.base / value).stat().st_size) > INLINE_LIMIT:
        at.fault(
            f"a file of {size} bytes",
            f"files of at most {units.show_size(INLINE_LIMIT)} here; list larger ones under inputs",
        )


def check_input(value: str, at: Location) -> None:
    """Fault an input that is neither an object with a key nor a readable file. Its bucket is compared elsewhere."""
    if not is_s3_url(value):
        check_local(value, at)
    elif not (_OBJECT.search(value) and re.search(RELATIVE, destination(value))):
        at.fault(show(value), "s3://BUCKET/KEY, or a local file relative to job.yaml")


def check_local(value: str, at: Location) -> bool:
    """Fault a local file that can't be read, and return whether it can."""
    if "://" in value:
        at.fault(show(value), "a local file, relative to job.yaml")
        return False
    path = at.faults.base / value
    wrong = ""
    try:
        if path.is_dir():
            wrong = f"{show(value)}, which is a directory"
        elif not path.exists():
            wrong = f"{show(value)}, and there is no such file in {at.faults.base}"
        elif not path.is_file():
            wrong = f"{show(value)}, which is no regular file"
        else:
            path.open("rb").close()
    except (OSError, ValueError) as error:
        wrong = f"{show(value)}, which can't be read ({getattr(error, 'strerror', None) or error})"
    if wrong:
        at.fault(wrong, "a readable local file, relative to job.yaml")
    return not wrong


def check_in_folder(value: str, at: Location) -> bool:
    """Fault a source that can't be its own destination, and return whether it can."""
    fits = bool(re.search(RELATIVE, value))
    if not fits:
        at.fault(show(value), "a file at or below job.yaml's own folder" + _ELSEWHERE_HINT)
    return fits


def check_script(value: str, at: Location) -> None:
    """Fault a script that Linux would refuse to run."""
    if not (check_in_folder(value, at) and check_local(value, at)):
        return
    check_inline(value, at)
    with (at.faults.base / value).open("rb") as file:
        first = file.readline(256)
    if first.startswith(b"\x7fELF"):
        return
    if not first.startswith(b"#!"):
        at.fault(f"{show(value)}, which doesn't start with #!", "a script that names its interpreter: #!/bin/sh")
    elif first.endswith(b"\r\n"):
        at.fault(f"{show(value)}, which has Windows line ends", "a script whose lines end in LF alone")
