"""The units of work of a push: a whole file, or a part of one. A bundle is in `agent.bundle`.

A unit has `items`, the files that fail when it fails, and `upload(pusher, uploader)`, which stores and journals it and
returns how many files are whole now.
"""

from agent.errors import FileChanged
from agent.files import OpenFile, permissions
from agent.http import FileSlice
from agent.layout import PART

SMALL = 1 << 20  # bytes: files up to this are sent from memory, and go into a bundle if asked


class WholeFile:
    """A file that is one object."""

    def __init__(self, item):
        self.items = (item,)

    def upload(self, pusher, uploader):
        """Store it."""
        name = self.items[0].name
        with OpenFile(self.items[0]) as opened:
            size = opened.found.st_size
            entry = {
                "path": name,
                "size": size,
                "mtime": opened.found.st_mtime,
                "mode": permissions(opened.found.st_mode),
            }
            if size > pusher.split:
                raise FileChanged
            if size > SMALL:
                try:
                    entry.update(pusher.put(uploader, name, FileSlice(opened.fd, 0, size)))
                finally:
                    opened.check_unchanged()
            else:
                entry.update(pusher.put(uploader, name, opened.read()))
        pusher.journal.add(entry)
        return 1


class FilePart:
    """`size` bytes of a file, which is split into parts of `step` bytes, numbered from 1."""

    def __init__(self, item, number, offset, size, step):
        self.items, self.number, self.offset, self.size, self.step = (item,), number, offset, size, step

    def upload(self, pusher, uploader):
        """Store it."""
        item = self.items[0]
        with OpenFile(item) as opened:
            found = opened.found
            if item.size >= 0 and (found.st_size, found.st_mtime) != (item.size, item.mtime):
                raise FileChanged
            entry = {"path": item.name, "of": item.size, "mtime": item.mtime, "mode": permissions(found.st_mode)}
            entry.update(step=self.step, part=self.number)
            try:
                data = FileSlice(opened.fd, self.offset, self.size)
                entry.update(self.put(pusher, uploader, PART % (item.name, self.number), data))
            finally:
                opened.check_unchanged()
        pusher.journal.add(entry)
        return int(self.offset + self.size == item.size)

    def put(self, pusher, uploader, name, data):
        """Store the object."""
        return pusher.put(uploader, name, data)
