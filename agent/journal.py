"""What is stored already, remembered across crashes, and the manifest that is made from it.

The journal is a file of JSON lines, appended by every process that pushes with the same grant. Its first line names
the outputs prefix; a journal of another prefix is begun anew. A line is one of::

    {"path", "size", "mtime", "sha256", "mode", "verified"}    a file: an ENTRY of the manifest, which takes it as it is
    … and "bundle", "offset"                                   a file in a bundle
    {"object", "size", "sha256"}                               a bundle itself
    {"path", "of", "mtime", "mode", "step", "part", "size", "sha256", "verified"}
                                                a part by number, "of" a file of so many bytes (-1: a stream)
    {"path", "size", "mtime", "mode", "parts", "verified"}     a whole stream
    {"path": "dir/", "type": "dir", "mode"}                    an empty directory
    {"rate"}                                                   bytes a second of a push
"""

import fcntl
import json
import os
import re
from hashlib import sha256
from json.encoder import encode_basestring_ascii as quote

from agent.layout import MANIFEST, MANIFEST_PART

SEGMENT = 900000  # bytes of entries in one object of the manifest (the status policy allows 1 MiB)


encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make an encoder a call


def dumps(value):
    """Write compact JSON, as bytes."""
    return encode(value).encode()


def head(path, size, mtime):
    """Return how the line of this version of a file begins."""
    return b'{"path":%s,"size":%d,"mtime":%s' % (quote(path).encode(), size, repr(mtime).encode())


def path_of_file(line):
    """Return the path of a line that is a file, in one object or a bundle; None of any other, or a torn one.

    It is known by how it begins, with the path and then its size, and by how it ends, with a text; and it holds no
    list. No quoted path has `","` in it. Parsing all of its JSON would take several times as long.
    """
    end = line.find(b'","')
    if line[2:6] + line[end + 3 : end + 8] + line[-2:] != b'pathsize""}' or line.find(b"[", end) >= 0:
        return None
    path = line[9:end].decode()
    return json.loads('"%s"' % path) if "\\" in path else path


class Journal:
    """`files` maps paths to lines (bytes) or, of a split file, to its entry with "parts" by number; `bundles` maps
    names to entries. `rate`: see above; 0: unknown.

    As a context manager it locks out every other process that does the same.
    """

    def __init__(self, path, prefix):
        self.fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        first = dumps({"prefix": prefix})
        with self:
            if os.pread(self.fd, len(first), 0) != first:
                os.ftruncate(self.fd, 0)
                os.write(self.fd, first)
            os.write(self.fd, b"\n")  # ends a torn line
        self.at, self.files, self.bundles, self.rate = 0, {}, {}, 0
        self.refresh()

    def __enter__(self):
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def __exit__(self, *_):
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def add(self, *entries):
        """Append entries in one write: each a dict, or a line."""
        self.write(b"".join(dumps(entry) + b"\n" for entry in entries))

    def write(self, lines):
        """Append lines in one write."""
        if os.write(self.fd, lines) != len(lines):
            raise OSError("no room for the journal")

    def sync(self):
        """Have everything on the disk."""
        os.fdatasync(self.fd)

    def refresh(self):
        """Read what was appended since, by this and other processes."""
        while True:
            lines = os.pread(self.fd, 1 << 16, self.at)
            lines = lines[: lines.rfind(b"\n") + 1]
            if not lines:
                return
            self.at += len(lines)
            for line in lines.splitlines():
                path = path_of_file(line)
                if path is not None:
                    self.files[path] = line
                    continue
                try:
                    self.apply_entry(json.loads(line.decode()), line)
                except ValueError:
                    continue  # torn by a crash

    def apply_entry(self, entry, line):
        """Take in one line: parsed, and as it stands."""
        if "object" in entry:
            self.bundles[entry.pop("object")] = entry
        elif "part" in entry:
            head = {name: entry[name] for name in ("path", "mtime", "mode", "step")}
            head["size"] = entry["of"]
            whole = self.split(head["path"])
            parts = whole["parts"] if all(whole.get(name) == head[name] for name in head) else {}
            parts[entry["part"]] = {name: entry[name] for name in ("size", "sha256", "verified")}
            self.files[head["path"]] = dict(head, parts=parts)
        elif "path" in entry:
            self.files[entry["path"]] = line
        self.rate = entry.get("rate", self.rate)

    def split(self, path):
        """Return the entry of a split file, or an empty one."""
        entry = self.files.get(path)
        return entry if isinstance(entry, dict) else {}

    def manifest(self, **head):
        """Yield (name, bytes) of the manifest's objects in the order to store them. `head` goes into the last."""
        self.refresh()
        chunks, more, room = [[]], [], SEGMENT
        for line in self.files.values():
            if isinstance(line, dict):
                parts = [part for _, part in sorted(line["parts"].items())]
                if sum(part["size"] for part in parts) != line["size"]:
                    continue  # parts are missing
                entry = dict(line, parts=parts, verified=parts[0]["verified"])
                del entry["step"]
                line = dumps(entry)
            room -= len(line) + 2
            if room < 0:
                chunks.append([])
                room = SEGMENT - len(line)
            chunks[-1].append(line)
        chunks, sizes, bundles = [b"\n" + b",\n".join(chunk) for chunk in chunks], [], set()
        for chunk in chunks:  # no path has a quote in it that isn't escaped
            sizes += re.findall(rb'\n.*?,"size":(\d+)', chunk)
            bundles.update(re.findall(rb'"bundle":"([^"]*)', chunk))
        bundles = [dict(self.bundles[name], path=name) for name in sorted(map(bytes.decode, bundles))]
        for number, chunk in enumerate(chunks[:-1], 1):
            name, data = MANIFEST_PART % number, b"[%s]" % chunk
            more.append({"name": name, "size": len(data), "sha256": sha256(data).hexdigest()})
            yield name, data
        head.update(version=1, files=len(sizes), bytes=sum(map(int, sizes)), bundles=bundles, more=more)
        yield MANIFEST, b'%s,"entries":[%s]}' % (dumps(head)[:-1], chunks[-1])
