"""Bundles: many small files as one tar object, whose members the manifest names with their offsets."""

import hashlib
import os

from agent.files import Opened, mode
from agent.grant import decode_name
from agent.post import Failed

MAGIC = b"ustar  \0"


def pack(pusher, items, sender):
    """Store many files as one tar."""
    tar, entries, name = bytearray(), [], hashlib.sha256()
    for item in items:
        try:
            with Opened(item) as opened:
                data, found = opened.read(), opened.found
        except (Failed, OSError) as failure:
            pusher.fail(item.name, failure)
            continue
        head = header(os.fsencode(decode_name(item.name)), len(data), found.st_mtime, found.st_mode)
        sha = hashlib.sha256(data)
        name.update(head + sha.digest())
        tar += head
        entry = {"path": item.name, "size": len(data), "sha256": sha.hexdigest(), "mtime": found.st_mtime}
        entry.update(mode=mode(found.st_mode), offset=len(tar))
        entries.append(entry)
        tar += data
        tar += bytes(-len(data) % 512)
    tar += bytes(1024)
    name = ".bundles/%s.tar" % name.hexdigest()[:32]
    stored = pusher.put(sender, name, tar)
    for entry in entries:
        entry.update(bundle=name, verified=stored["verified"])
    pusher.journal.add(dict(stored, object=name), *entries)
    pusher.ring(len(entries), 0)


def header(name, size, mtime, mode, kind=b"0"):
    """Return a file's tar header (ustar, with GNU's @LongLink for a long name); `name` in bytes."""
    long, padding = b"", 100 - len(name)
    if padding < 0:
        long = header(b"././@LongLink", len(name) + 1, 0, 0, b"L") + name + bytes(512 - len(name) % 512)
    head = name[:100] + bytes(max(0, padding))
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode & 0o7777, 0, 0, size, max(0, int(mtime)))
    total = sum(name[:100]) + sum(numbers) + kind[0] + sum(MAGIC) + 256  # 256: the checksum's own field as spaces
    return long + head + numbers + b"%06o\0 " % total + kind + bytes(100) + MAGIC + bytes(247)
