"""Open files that a job's process hands to `agent run`, and the checks before they are read."""

import os
import stat
from contextlib import suppress
from fcntl import F_GETFL, fcntl

from agent.errors import ExitCode, TransferError


class RemoteFile:
    """Takes the place of a file's path in an Item: the job's process opens the file anew for each thread."""

    def __init__(self, session, index, size):
        self.session, self.index, self.size = session, index, size

    def fileno(self):
        """Open it. Raise TransferError."""
        self.session.per_thread.file = [self.session.fetch(self.index, self.size)]
        return self.session.per_thread.file[0]

    def close(self):
        """Close this thread's."""
        close(self.session.per_thread.file)

    def __fspath__(self):
        """Return a path for `os.stat`, good until this thread asks for another file."""
        if hasattr(self.session.per_thread, "file"):
            self.close()
        return "/proc/self/fd/%d" % self.fileno()


class RemoteStream:
    """Reads a pipe to its end. The end is valid only when the writer has confirmed the number of bytes."""

    def __init__(self, session, fd):
        self.session, self.fd, self.size, self.over = session, fd, 0, False

    def read(self, size):
        """Return bytes; none at the end. Raise OSError."""
        data = b"" if self.over else os.read(self.fd, size)
        self.size += len(data)
        if size and not (data or self.over):
            said = {}
            with suppress(TransferError):
                said = self.session.receive()[0]
            if said.get("end") != self.size:
                raise OSError(0, "the stream was cut off")
            self.over = True
        return data


def close(files):
    """Close open files."""
    while files:
        os.close(files.pop())


def check_file(fd, kind):
    """Return the stat of an open file that its sender may read, of the `kind` that a function of `stat` tells.

    Raise TransferError.
    """
    flags, found = fcntl(fd, F_GETFL), os.fstat(fd)
    if flags & os.O_PATH or flags & 3 not in (os.O_RDONLY, os.O_RDWR):
        raise TransferError("it was not opened for reading", ExitCode.REFUSED)
    if not kind(found.st_mode):
        what = "pipe" if kind is stat.S_ISFIFO else "plain file"
        raise TransferError("it is no %s" % what, ExitCode.REFUSED)
    return found
