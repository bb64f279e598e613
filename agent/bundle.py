"""Bundles: many small files as one tar object, whose members the manifest names with their offsets."""

import hashlib
import os

from agent.files import Opened, mode
from agent.grant import decode_name
from agent.post import Failed


def pack(pusher, items, sender):
    """Store many files as one tar."""
    tar, entries = bytearray(), []
    for item in items:
        try:
            with Opened(item) as opened:
                data, found = opened.read(), opened.found
        except (Failed, OSError) as failure:
            pusher.fail(item.name, failure)
            continue
        tar += header(os.fsencode(decode_name(item.name)), len(data), found.st_mtime, found.st_mode)
        entry = {"path": item.name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        entry.update(mtime=found.st_mtime, mode=mode(found.st_mode), offset=len(tar))
        entries.append(entry)
        tar += data + bytes(-len(data) % 512)
    tar += bytes(1024)
    name = ".bundles/%s.tar" % hashlib.sha256(tar).hexdigest()[:32]
    stored = pusher.put(sender, name, tar)
    for entry in entries:
        entry.update(bundle=name, verified=stored["verified"])
    pusher.journal.add(dict(stored, object=name), *entries)
    pusher.ring(len(entries), 0)


def header(name, size, mtime, mode, kind=b"0"):
    """Return a file's tar header (ustar, with GNU's @LongLink for a long name); `name` in bytes."""
    long = b""
    if len(name) > 100:
        long = header(b"././@LongLink", len(name) + 1, 0, 0, b"L") + name + bytes(512 - len(name) % 512)
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode & 0o7777, 0, 0, size, max(0, int(mtime)))
    head = name[:100].ljust(100, b"\0") + numbers
    tail = kind + bytes(100) + b"ustar  \0" + bytes(247)
    return long + head + b"%06o\0 " % (sum(head) + sum(tail) + 256) + tail
