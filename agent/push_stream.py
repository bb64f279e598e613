"""Streams: standard input of unknown length, stored as the parts of one file while it is still being written.

A stream that was cut off begins anew, because it can't be read twice; parts that are as before are not sent again.
"""

import json
import time
from hashlib import sha256
from tempfile import TemporaryFile

from agent.files import Item
from agent.grant import encode_name
from agent.http import BLOCK, blocks
from agent.push import PART_SIZE
from agent.upload_units import FilePart, WholeFile


class StreamPart(FilePart):
    """A part of a stream. `known` is the journal's entry of this part as it was before, if any."""

    def __init__(self, item, number, size, known):
        FilePart.__init__(self, item, number, 0, size, 0)
        self.known = known

    def put(self, pusher, uploader, name, data):
        """Store the part, unless it is stored."""
        if self.known and self.known["size"] == len(data):
            sha = sha256()
            for block in blocks(data):
                sha.update(block)
            if sha.hexdigest() == self.known["sha256"]:
                return self.known
        return FilePart.put(self, pusher, uploader, name, data)


def push_stream(pusher, file, name, deadline=0):
    """Store all that `file` yields as one file, in parts while it is still being written. Return a Result."""
    pusher.reset(deadline)
    pusher.failed, key, sizes = {}, encode_name(name), []
    before = pusher.journal.split(key).get("parts", {})

    def unit(number):
        size, most = 0, min(PART_SIZE << number // 500, pusher.max_size)
        spool = TemporaryFile(buffering=0)  # noqa: SIM115 - the worker that sends it closes it
        while True:
            data = file.read(min(BLOCK, most - size))
            if not data:
                break
            size += spool.write(data)
        if not size and number:
            spool.close()
            return None
        sizes.append(size)
        item = Item(spool, key, -1, 0, 0o644, "/")
        if not number and size < most:
            return WholeFile(item)
        return StreamPart(item, number + 1, size, before.get(number + 1))

    pusher.run(unit)
    pusher.journal.refresh()
    entry = pusher.journal.split(key) or json.loads(pusher.journal.files.get(key, b"{}").decode())
    if not pusher.failed and "step" in entry:
        parts = [entry["parts"][number] for number in range(1, len(sizes) + 1)]
        entry = {"path": key, "size": sum(sizes), "mtime": int(time.time()), "mode": "0644", "parts": parts}
        pusher.journal.add(dict(entry, verified=parts[0]["verified"]))
        pusher.sent = 1
    return pusher.result({key: Item(None, key, sum(sizes), entry.get("mtime"), 0, "/")})
