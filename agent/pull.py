"""Fetches the grant's inputs: in ranges, in parallel, resumed, checked, and only then renamed into place.

What has come of an input lies in PATH.part, followed by a byte for each range: 1 when that one is complete, so that
after a crash only the others are fetched. A range that the disk lost all the same shows in the sha256.
"""

import os
import threading
import time
from functools import partial
from hashlib import sha256

from agent.errors import ExitCode, TransferError, error_from_reply
from agent.files import is_within
from agent.http import BLOCK, FileSlice, HttpConnection, blocks
from agent.retry import with_retries

RANGE, THREADS = 16 << 20, 8  # bytes in a request; requests at once


def pull(grant, folder, say=lambda text: None):
    """Put each input that isn't there yet into `folder`. Return [(path, TransferError)] of those that can't be had."""
    failed, todo, parts = {}, [], []
    root = os.path.realpath(folder)
    for item in grant.inputs:
        path = os.path.realpath(os.path.join(folder, item["path"]))
        if not is_within(path, root):
            failed[item["path"]] = TransferError("it would lie outside of the folder", ExitCode.USAGE)
        elif not (os.access(path, os.R_OK) and is_complete(path, item)):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if os.path.exists(path + ".part") and not os.access(path + ".part", os.W_OK):
                os.unlink(path + ".part")  # its mode was set already, and then it wasn't renamed
            file = os.open(path + ".part", os.O_RDWR | os.O_CREAT, 0o600)
            parts.append((item, path, file))
            for number, at in enumerate(range(0, item["size"], RANGE)):
                if os.pread(file, 1, item["size"] + number) != b"1" or "sha256" not in item:
                    todo.append((item, file, number, at))
    threads = [
        threading.Thread(target=fetch_ranges, args=(grant, todo, failed)) for _ in range(min(THREADS, len(todo)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for item, path, file in parts:
        if item["path"] not in failed:
            os.ftruncate(file, item["size"])
            if is_complete(path + ".part", item):
                os.fchmod(file, int(item.get("mode", "0644"), 8))
                os.fsync(file)
                os.rename(path + ".part", path)
                say("fetched %s" % item["path"])
            else:
                os.unlink(path + ".part")
                failed[item["path"]] = TransferError(
                    "it is not what the grant says: its size or sha256 differs", ExitCode.DAMAGED
                )
        os.close(file)
    return list(failed.items())


def is_complete(path, item):
    """Tell whether a file is what the grant says."""
    with open(path, "rb", 0) as file:
        size, sha = os.fstat(file.fileno()).st_size, sha256()
        for block in blocks(FileSlice(file.fileno(), 0, size)):
            sha.update(block)
    return size == item["size"] and item.get("sha256") in (None, sha.hexdigest())


def fetch_ranges(grant, todo, failed):
    """Fetch ranges until none is left."""
    connection = HttpConnection("http://-")
    while todo:
        try:
            item, file, number, at = todo.pop(0)
        except IndexError:
            break  # another thread was faster
        connection.set_url(item["url"])
        try:
            with_retries(partial(fetch_range, connection, grant.expires, file, at, min(RANGE, item["size"] - at)))
            os.pwrite(file, b"1", item["size"] + number)
        except (TransferError, OSError) as failure:
            failed[item["path"]] = (
                failure if isinstance(failure, TransferError) else TransferError(failure.strerror, ExitCode.SOME_FAILED)
            )
            if getattr(failure, "permanent", False):
                failed.update((job[0]["path"], failure) for job in todo)
                todo.clear()
    connection.close()


def fetch_range(connection, expires, file, at, size):
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

    head = "GET%sRange: bytes=%d-%d\r\n\r\n" % (connection.head, at, at + size - 1)
    status, headers, body = connection.request(head.encode(), take=take)
    if status == 200:
        connection.close()
    elif status != 206:
        raise error_from_reply(status, headers, body, 0 < expires <= time.time())
