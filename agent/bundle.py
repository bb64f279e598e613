"""Bundles: many small files as one tar object, whose members the manifest names with their offsets."""

import os
import stat
from contextlib import suppress
from hashlib import sha256
from threading import Semaphore
from zlib import adler32

from agent.errors import TransferError
from agent.files import OPEN_FLAGS, OpenFile, is_inside, permissions
from agent.grant import decode_name
from agent.journal import dumps, head
from agent.layout import BUNDLE

MAGIC = b"ustar  \0"  # of GNU tar
AT_ONCE = Semaphore(2)  # bundles that one process makes at the same time, for the sake of its memory
END = bytes(100) + MAGIC + bytes(247)  # of a header, after the type: no link, no owner's name


class Bundle:
    """Many small files, stored as one tar."""

    def __init__(self, items):
        self.items = items

    def upload(self, pusher, uploader):
        """Store it. Return how many files are in it."""
        with AT_ONCE:
            return upload_bundle(pusher, self.items, uploader)


def upload_bundle(pusher, items, uploader):
    """Store many files as one tar, without those that can't be read, and journal them. Return how many there are."""
    tar, lines, folder = bytearray(), [], Folder()
    for item in items:
        try:
            data, found = folder.read(item)
        except (TransferError, OSError) as error:
            pusher.pool.fail(item.name, error)
            continue
        raw = os.fsencode(decode_name(item.name)) if "%" in item.name else item.name.encode()
        first = header(raw, len(data), found.st_mtime, found.st_mode)
        sha = sha256(data)
        tar += first
        line = ',"sha256":"%s","mode":"%s","offset":%d' % (sha.hexdigest(), permissions(found.st_mode), len(tar))
        lines.append(head(item.name, len(data), found.st_mtime) + line.encode())
        tar += data
        tar += bytes(-len(data) % 512)
    folder.close()
    tar += bytes(1024)
    name = BUNDLE % sha256(b"".join(lines)).hexdigest()[:32]
    stored = pusher.put(uploader, name, tar)
    end = b',"bundle":"%s","verified":"%s"}\n' % (name.encode(), stored["verified"].encode())
    pusher.journal.write(dumps(dict(stored, object=name)) + b"\n" + end.join(lines) + end * bool(lines))
    return len(lines)


class Folder:
    """Reads files, as OpenFile does, but asks where a folder is only once for all files of it that are in a row."""

    fd = path = safe = None

    def close(self):
        """Close the folder."""
        self.path = None
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def read(self, item):
        """Return a small file's bytes and its stat. Raise OSError or FileChanged."""
        path, slash, name = item.path.rpartition("/") if isinstance(item.path, str) else ("", "", None)
        if path + slash != self.path:
            self.close()
            self.fd = os.open(path + slash or ".", OPEN_FLAGS | os.O_DIRECTORY)
            self.path = path + slash
            self.safe = is_inside(self.fd, item.root)
        with suppress(OSError):  # it is a link, or no file any more
            if self.safe and name:
                fd = os.open(name, OPEN_FLAGS | os.O_NOFOLLOW, dir_fd=self.fd)
                try:
                    data = os.pread(fd, item.size + 1, 0)
                    found = os.fstat(fd)
                finally:
                    os.close(fd)
                if item[2:4] == (len(data), found.st_mtime) and stat.S_ISREG(found.st_mode):
                    return data, found
        with OpenFile(item) as opened:  # it may also have changed since the scan
            return opened.read(), opened.found


def header(name, size, mtime, mode, kind=b"0"):
    """Return a file's tar header (ustar, with GNU's @LongLink for a long name); `name` in bytes."""
    long = b""
    if len(name) > 100:
        long = header(b"././@LongLink", len(name) + 1, 0, 0, b"L") + name + bytes(512 - len(name) % 512)
        name = name[:100]
    numbers = mode & 0o7777, 0, 0, size, max(0, int(mtime))
    head = name + bytes(100 - len(name)) + b"%07o\0%07o\0%07o\0%011o\0%011o\0" % numbers
    # The sum of all bytes, with the checksum's own field as 8 spaces: of so few bytes half of Adler-32 is just that.
    total = (adler32(head + kind + MAGIC) - 1 & 0xFFFF) + 256
    return b"%s%s%06o\0 %s%s" % (long, head, total, kind, END)
