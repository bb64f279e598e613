"""What has been stored: one JSON line an object in a file beside the grant, and the manifest that is made from it.

The first line names the outputs prefix; a journal of another grant is begun anew. Workers append whole lines, from
several processes at once; a line torn by a crash is skipped. Lines are::

    {"path", "size", "sha256", "mtime", "mode", "verified"}    a file: an ENTRY of the manifest
    … and "bundle", "offset"                                   a file in a bundle
    {"object", "size", "sha256"}                               a bundle itself
    {"path", "of", "mtime", "mode", "step", "part", "size", "sha256", "verified"}
                                                a part by number, "of" a file of so many bytes (-1: a stream)
    {"path", "size", "mtime", "mode", "verified", "parts"}     a whole stream
    {"path": "dir/", "type": "dir", "mode"}                    an empty directory
    {"rate"}                                                   bytes a second of a push
"""

import fcntl
import hashlib
import json
import os

SEGMENT = 900000  # bytes of entries in one object of the manifest (the status policy allows 1 MiB)


encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make an encoder a call


def dumps(value):
    """Write compact JSON, as bytes."""
    return encode(value).encode()


class Journal:
    """`files` maps paths to entries, `bundles` too; the entry of a split file has "parts" by number; `lines` has the
    lines of the others. `rate`: see above; 0: unknown.

    As a context manager it locks out every other process that does the same.
    """

    def __init__(self, path, prefix):
        self.fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        head = dumps({"prefix": prefix})
        with self:
            if os.pread(self.fd, len(head), 0) != head:
                os.ftruncate(self.fd, 0)
                os.write(self.fd, head)
            os.write(self.fd, b"\n")  # ends a torn line
        self.at, self.files, self.lines, self.bundles, self.rate = 0, {}, {}, {}, 0
        self.refresh()

    def __enter__(self):
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def __exit__(self, *_):
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def add(self, *entries):
        """Append entries in one write."""
        lines = b"".join(dumps(entry) + b"\n" for entry in entries)
        if os.write(self.fd, lines) != len(lines):
            raise OSError("no room for the journal")

    def refresh(self):
        """Read what was appended since, by this and other processes."""
        while True:
            lines = os.pread(self.fd, 1 << 20, self.at)
            lines = lines[: lines.rfind(b"\n") + 1]
            if not lines:
                return
            self.at += len(lines)
            for line in lines.splitlines():
                try:
                    entry = json.loads(line.decode())
                except ValueError:
                    continue  # torn by a crash
                self.learn(entry, line)

    def learn(self, entry, line):
        """Take in one line: parsed, and as it stands."""
        if "object" in entry:
            self.bundles[entry.pop("object")] = entry
        elif "part" in entry:
            head = {name: entry.pop(name) for name in ("path", "mtime", "mode", "step")}
            head["size"] = entry.pop("of")
            whole = self.files.get(head["path"], {})
            parts = whole["parts"] if all(whole.get(name) == head[name] for name in head) else {}
            parts[entry.pop("part")] = entry
            self.files[head["path"]] = dict(head, parts=parts)
        elif "path" in entry:
            self.files[entry["path"]] = entry
            self.lines[entry["path"]] = line  # so that the manifest needs no encoding
        self.rate = entry.get("rate", self.rate)

    def manifest(self, **head):
        """Yield (name, bytes) of the manifest's objects in the order to store them. `head` goes into the last."""
        self.refresh()
        chunks, more, bundles, files, total, room = [[]], [], {}, 0, 0, SEGMENT
        for path, entry in self.files.items():
            line = self.lines.get(path)
            if "step" in entry:
                entry = dict(entry, parts=[part for _, part in sorted(entry["parts"].items())])
                del entry["step"]
                entry["verified"] = entry["parts"][0].get("verified")
                line = dumps(entry)
                if sum(part["size"] for part in entry["parts"]) != entry["size"]:
                    continue  # parts are missing
            if "bundle" in entry:
                bundles[entry["bundle"]] = dict(self.bundles[entry["bundle"]], path=entry["bundle"])
            files += "size" in entry
            total += entry.get("size", 0)
            room -= len(line) + 1
            if room < 0:
                chunks.append([])
                room = SEGMENT - len(line)
            chunks[-1].append(line)
        *segments, last = (b"[" + b",".join(chunk) + b"]" for chunk in chunks)
        for number, data in enumerate(segments, 1):
            name = "manifest/%06d" % number
            more.append({"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
            yield name, data
        head.update(version=1, files=files, bytes=total, bundles=list(bundles.values()), more=more)
        yield "manifest.json", dumps(head)[:-1] + b',"entries":' + last + b"}"
