"""Fetches the grant's inputs: in ranges, in parallel, resumed, checked, and only then renamed into place.

What has come of an input lies in PATH.part, followed by a byte for each range: 1 when that one is complete, so that
after a crash only the others are fetched. A range that the disk lost all the same shows in the sha256.
"""

import os
import threading
import time
from functools import partial

from agent.files import within
from agent.http import BLOCK, Failed, Wire, blocks, insist, refusal, sha256

RANGE, THREADS = 16 << 20, 8  # bytes in a request; requests at once


def pull(grant, folder, say=lambda text: None):
    """Put each input that isn't there yet into `folder`. Return [(path, Failed)] of those that can't be had."""
    failed, todo, parts = {}, [], []
    root = os.path.realpath(folder)
    for item in grant.inputs:
        path = os.path.realpath(os.path.join(folder, item["path"]))
        if not within(path, root):
            failed[item["path"]] = Failed("it would lie outside of the folder", 2)
        elif not (os.access(path, os.R_OK) and right(path, item)):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if os.path.exists(path + ".part") and not os.access(path + ".part", os.W_OK):
                os.unlink(path + ".part")  # its mode was set already, and then it wasn't renamed
            file = os.open(path + ".part", os.O_RDWR | os.O_CREAT, 0o600)
            parts.append((item, path, file))
            for number, at in enumerate(range(0, item["size"], RANGE)):
                if os.pread(file, 1, item["size"] + number) != b"1" or "sha256" not in item:
                    todo.append((item, file, number, at))
    threads = [threading.Thread(target=work, args=(grant, todo, failed)) for _ in range(min(THREADS, len(todo)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for item, path, file in parts:
        if item["path"] not in failed:
            os.ftruncate(file, item["size"])
            if right(path + ".part", item):
                os.fchmod(file, int(item.get("mode", "0644"), 8))
                os.fsync(file)
                os.rename(path + ".part", path)
                say("fetched %s" % item["path"])
            else:
                os.unlink(path + ".part")
                failed[item["path"]] = Failed("it is not what the grant says: its size or sha256 differs", 8)
        os.close(file)
    return list(failed.items())


def right(path, item):
    """Tell whether a file is what the grant says."""
    with open(path, "rb", 0) as file:
        size, sha = os.fstat(file.fileno()).st_size, sha256()
        for block in blocks(file.fileno(), 0, size):
            sha.update(block)
    return size == item["size"] and item.get("sha256") in (None, sha.hexdigest())


def work(grant, todo, failed):
    """Fetch ranges until none is left."""
    wire = Wire("http://-")
    while todo:
        try:
            item, file, number, at = todo.pop(0)
        except IndexError:
            break  # another thread was faster
        wire.aim(item["url"])
        try:
            insist(partial(fetch, wire, grant.expires, file, at, min(RANGE, item["size"] - at)))
            os.pwrite(file, b"1", item["size"] + number)
        except (Failed, OSError) as failure:
            failed[item["path"]] = failure if isinstance(failure, Failed) else Failed(failure.strerror, 6)
            if getattr(failure, "fatal", False):
                failed.update((job[0]["path"], failure) for job in todo)
                todo.clear()
    wire.close()


def fetch(wire, expires, file, at, size):
    """Write one range to `file`, in one attempt."""

    def take(status, reader, _):
        place, left = at, size
        if status == 200:  # a store without ranges sends it all
            place = 0
            left = at + size
        while left:
            data = reader.read(min(BLOCK, left))
            if not data:
                raise ConnectionResetError("the store hung up")
            place += os.pwrite(file, data, place)
            left -= len(data)

    head = "GET%sRange: bytes=%d-%d\r\n\r\n" % (wire.head, at, at + size - 1)
    status, headers, body = wire.ask(head.encode(), take=take)
    if status == 200:
        wire.close()
    elif status != 206:
        raise refusal(status, headers, body, 0 < expires <= time.time())
