"""Streams: standard input of unknown length, stored as the parts of one file while it is still being written.

A stream that was cut off begins anew, for nobody can read it twice; parts that come out as before are not sent again.
"""

import json
import time
from tempfile import TemporaryFile

from agent.files import Item
from agent.grant import encode_name
from agent.http import BLOCK, blocks, sha256
from agent.push import PART, Job


def pour(pusher, file, name, deadline=0):
    """Store all that `file` yields as one file, in parts while it is still being written. Return a Result."""
    pusher.begin(deadline)
    pusher.failed, code, sizes, send = {}, encode_name(name), [], pusher.put
    before = pusher.journal.split(code).get("parts", {})

    def put(sender, name, data):
        known = before.get(int(name[-5:])) if name != code else None
        if known and known["size"] == data[2]:
            sha = sha256()
            for block in blocks(*data):
                sha.update(block)
            if sha.hexdigest() == known["sha256"]:
                return known
        return send(sender, name, data)

    def part(number):
        size, most = 0, min(PART << number // 500, pusher.high)
        spool = TemporaryFile(buffering=0)  # noqa: SIM115 - whoever sends it closes it
        while True:
            data = file.read(min(BLOCK, most - size))
            if not data:
                break
            size += spool.write(data)
        if not size and number:
            spool.close()
            return None
        sizes.append(size)
        number += size == most or number > 0
        return Job([Item(spool, code, -1, 0, 0o644, "/")], number, 0, size, 0)

    pusher.put = put
    pusher.run(part)
    pusher.journal.refresh()
    entry = pusher.journal.split(code) or json.loads(pusher.journal.files.get(code, b"{}").decode())
    if not pusher.failed and "step" in entry:
        parts = [entry["parts"][number] for number in range(1, len(sizes) + 1)]
        entry = {"path": code, "size": sum(sizes), "mtime": int(time.time()), "mode": "0644", "parts": parts}
        pusher.journal.add(dict(entry, verified=parts[0]["verified"]))
        pusher.sent = 1
    return pusher.result({code: Item(None, code, sum(sizes), entry.get("mtime"), 0, "/")})
