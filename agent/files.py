"""Which files there are to store, and reading them safely.

Links are followed only inside the tree they were named in. As the owner of the tree may put a link in a file's place at
any time, an open file is asked where it is.
"""

import os
import stat
from collections import namedtuple

from agent.errors import ExitCode, FileChanged, TransferError
from agent.grant import KEY_BUDGET, encode_name

OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
Item = namedtuple("Item", "path name size mtime mode root")  # size -1: an empty directory


def scan(paths, base, as_name, say):
    """Return {name: Item} of all that `paths` name, and {name: TransferError} of what can't be had."""
    items, failed = {}, {}

    def visit(path, name, root, above, entry=None):
        code = encode_name(name)
        try:
            real = None
            if entry and entry.is_symlink():
                real = os.path.realpath(path)
                if real in above or not is_within(real, root) or not os.path.exists(real):
                    say("skipped %s: a link that leads out of its tree, up or nowhere" % code)
                    return
            found = entry.stat() if entry else os.stat(path)
            if len(code.encode()) > KEY_BUDGET:
                raise OSError(0, "its name is too long")
            if stat.S_ISREG(found.st_mode):
                items[code] = Item(path, code, found.st_size, found.st_mtime, found.st_mode, root)
            elif stat.S_ISDIR(found.st_mode):
                above += (real or (above[-1] + "/" + entry.name if entry else os.path.realpath(path)),)
                with os.scandir(path) as entries:
                    inside = sorted(entries, key=lambda each: each.name)
                if not inside and name != ".":
                    items[code + "/"] = Item(path, code + "/", -1, 0, found.st_mode, root)
                for each in inside:
                    visit(each.path, each.name if name == "." else name + "/" + each.name, root, above, each)
            else:
                say("skipped %s: no file" % code)
        except OSError as error:
            failed[code] = TransferError(error.strerror, ExitCode.SOME_FAILED)

    for given in paths:
        found = [given]
        if not os.path.lexists(given):
            from glob import glob

            found = sorted(glob(given, recursive=True))
        if not found:
            failed[encode_name(given)] = TransferError("no such file", ExitCode.USAGE)
        for path in found:
            name = os.path.relpath(path, base)
            if as_name:
                name = as_name if [path] == paths else os.path.join(as_name, name)
            name = os.path.normpath(name)
            if name.startswith(("..", "/")):
                failed[encode_name(path)] = TransferError("it is outside of the base", ExitCode.USAGE)
            else:
                visit(path, name, os.path.realpath(path), ())
    return items, failed


def is_inside(fd, root):
    """Tell whether an open file is `root` or below it, wherever its path leads by now."""
    return is_within(os.readlink("/proc/self/fd/%d" % fd), root)


def is_within(path, root):
    """Tell whether a real path is `root` or below it."""
    return (path + "/").startswith(root.rstrip("/") + "/")


def mode(found):
    """The permissions, as a manifest has them."""
    return "%04o" % (found & 0o7777)


def version(found):
    """What changes with a file's content."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Opened:
    """The open file of an Item (or its path is one), wherever it leads by now, unless that is out of its tree."""

    def __init__(self, item):
        self.file = item.path
        self.fd = os.open(self.file, OPEN_FLAGS) if isinstance(self.file, str) else self.file.fileno()
        self.found = os.fstat(self.fd)
        if not (is_inside(self.fd, item.root) and stat.S_ISREG(self.found.st_mode)):
            self.__exit__()
            raise FileChanged

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd) if isinstance(self.file, str) else self.file.close()

    def check_unchanged(self):
        """Raise FileChanged unless it is as it was."""
        if version(os.fstat(self.fd)) != version(self.found):
            raise FileChanged

    def read(self):
        """Return all of a small file."""
        data = os.pread(self.fd, self.found.st_size + 1, 0)
        self.check_unchanged()
        return data
