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
    for given in paths:
        matches = [given]
        if not os.path.lexists(given):
            from glob import glob

            matches = sorted(glob(given, recursive=True))
        if not matches:
            failed[encode_name(given)] = TransferError("no such file", ExitCode.USAGE)
        for path in matches:
            name = os.path.relpath(path, base)
            if as_name:
                name = as_name if [path] == paths else os.path.join(as_name, name)
            name = os.path.normpath(name)
            if name.startswith(("..", "/")):
                failed[encode_name(path)] = TransferError("it is outside of the base", ExitCode.USAGE)
            else:
                for key, found in walk(path, name, os.path.realpath(path), (), say):
                    (items if isinstance(found, Item) else failed)[key] = found
    return items, failed


def walk(path, name, root, above, say, entry=None):
    """Yield (key, Item or TransferError) of a file, or of each file and empty directory below a directory.

    `name` is what it is stored as, `root` the real path of the tree that was named, and `above` those of the
    directories that lead here; `entry` is its DirEntry, unless it is the root.
    """
    key = encode_name(name)
    try:
        real = None
        if entry and entry.is_symlink():
            real = os.path.realpath(path)
            if real in above or not is_within(real, root) or not os.path.exists(real):
                say("skipped %s: a link that leads out of its tree, up or nowhere" % key)
                return
        found = entry.stat() if entry else os.stat(path)
        if len(key.encode()) > KEY_BUDGET:
            raise OSError(0, "its name is too long")
        if stat.S_ISREG(found.st_mode):
            yield key, Item(path, key, found.st_size, found.st_mtime, found.st_mode, root)
        elif stat.S_ISDIR(found.st_mode):
            above += (real or (above[-1] + "/" + entry.name if entry else os.path.realpath(path)),)
            with os.scandir(path) as entries:
                inside = sorted(entries, key=lambda each: each.name)
            if not inside and name != ".":
                yield key + "/", Item(path, key + "/", -1, 0, found.st_mode, root)
            for each in inside:
                yield from walk(each.path, each.name if name == "." else name + "/" + each.name, root, above, say, each)
        else:
            say("skipped %s: no file" % key)
    except OSError as error:
        yield key, TransferError(error.strerror, ExitCode.SOME_FAILED)


def is_inside(fd, root):
    """Tell whether an open file is `root` or below it, wherever its path leads by now."""
    return is_within(os.readlink("/proc/self/fd/%d" % fd), root)


def is_within(path, root):
    """Tell whether a real path is `root` or below it."""
    return (path + "/").startswith(root.rstrip("/") + "/")


def permissions(st_mode):
    """The permissions, as a manifest has them."""
    return "%04o" % (st_mode & 0o7777)


def content_version(found):
    """What changes with a file's content."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


class OpenFile:
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
        if content_version(os.fstat(self.fd)) != content_version(self.found):
            raise FileChanged

    def read(self):
        """Return all of a small file."""
        data = os.pread(self.fd, self.found.st_size + 1, 0)
        self.check_unchanged()
        return data
