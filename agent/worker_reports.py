"""Reports of a push's workers to the process that collects them: lines of JSON through a pipe.

::

    {"stored": files, "sent": bytes}                                               since the last such line
    {"failed": path, "text": …, "exit": …, "changed": true or false, "permanent": true or false}

Both ends import this module. A line is written at once, so that those of several workers don't mix.
"""

import json
import os

from agent.errors import FileChanged, TransferError


def progress(files, size):
    """Return the report of files stored and bytes sent."""
    return {"stored": files, "sent": size}


def failure(path, error):
    """Return the report that a file failed, by a TransferError."""
    changed = isinstance(error, FileChanged)
    return {"failed": path, "text": str(error), "exit": error.exit, "changed": changed, "permanent": error.permanent}


def read_error(report):
    """Return the error of a report that has "failed"."""
    return FileChanged() if report["changed"] else TransferError(report["text"], report["exit"], report["permanent"])


def write(fd, report):
    """Write a report. Raise BrokenPipeError when the reader has gone."""
    os.write(fd, json.dumps(report).encode() + b"\n")


class ReportReader:
    """Reads reports from a pipe."""

    def __init__(self, fd):
        self.fd, self.rest = fd, b""

    def read(self):
        """Return the reports that have come, having waited for some; None when all who write have gone."""
        data = os.read(self.fd, 1 << 16)
        if not data:
            return None
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [json.loads(line.decode()) for line in lines]
