"""Stores files below the outputs prefix: which files, in what units, and what became of each.

In process, as often as wanted, beside other agents on the same journal::

    pusher = Pusher(grant, journal_path, workers=32, split=1 << 30, say=print)
    result = pusher.push(paths, base=".", as_name=None, bundle=False, deadline=0)
    pusher.manifest(complete=True)  # stores the manifest of everything that the journal knows

`paths` are files, directories (whole, empty ones too) and glob patterns, relative to the current directory; keys are
relative to `base`. `workers` is the most threads; a file of more than `split` bytes is stored in parts. A deadline
(seconds since 1970) ends the push; what is left counts as failed.

Attributes that the caller may set: `say(sentence)` is called for what is skipped; `progress(files, bytes)` for what is
sent, of `total` (files, bytes; of a stream unknown); `order(items)` returns the files in the order to send them in;
`throttle(count, over)` is called after `count` bytes were counted, and waits as long as it likes, or until the
threading.Event `over` is set; `in_process` keeps a push from starting other processes; `latest` is the deadline of each
later push that is given none; `make_uploader` returns what uploads, and is called as `agent.upload.new_uploader` is.

A Result has `stored` (paths), `files` and `bytes` that are stored now, `sent` (files that this call sent), `failed`
[(path, sentence)], `exit_code` (ExitCode: OK; USAGE, a path matches nothing; EXPIRED; REFUSED; SOME_FAILED;
UNREACHABLE; DAMAGED). One failed file never stops the others; an expired grant or an unreachable store stops all.
"""

import os
import threading
import time
from collections import namedtuple

from agent.errors import ExitCode, FileChanged, TransferError
from agent.files import Item, permissions, scan
from agent.journal import Journal, head
from agent.retry import WAIT, with_retries
from agent.upload import new_uploader, send
from agent.upload_units import SMALL, FilePart, WholeFile
from agent.workers import Workers

PART_SIZE = 16 << 20  # bytes of a part, at least
MAX_PARTS = 5000  # of a file, unless the policy keeps parts smaller: their list must fit into a manifest
BUNDLE_SIZE = 1 << 20  # bytes of a bundle; two at most are in the memory of each process

Result = namedtuple("Result", "files bytes sent failed exit_code stored")


class Pusher:
    """See the module's text."""

    in_process, throttle, latest, make_uploader = False, None, 0, staticmethod(new_uploader)

    def __init__(self, grant, journal, workers=32, split=1 << 30, say=lambda text: None):
        self.grant, self.workers, self.say = grant, workers or 1, say
        _, self.max_size = grant.outputs.size_range()
        self.split = grant.outputs.fields.get("split") or min(split, self.max_size)
        self.journal = Journal(journal, grant.outputs.prefix)
        self.progress, self.total, self.order = lambda files, size: None, (0, 0), list

    def manifest(self, complete=True, until=0):
        """Store the manifest of everything in the journal: the last act, but for the final event.

        Raise TransferError.
        """
        job, task, attempt = self.grant[:3]
        with self.journal:
            for name, data in self.journal.manifest(job=job, task=task, attempt=attempt, complete=complete):
                send(self.grant.status, name, data, self.grant.expires, until, self.make_uploader)

    def push(self, paths, base=".", as_name=None, bundle=False, deadline=0):
        """Store what `paths` name. Return a Result; failures of single files are in it."""
        return self.store(*scan(paths, base, as_name, self.say), bundle, deadline)

    def store(self, items, missing, bundle=False, deadline=0):
        """Store Items by name, as `scan` gives them: with what is `missing`, a TransferError by name.

        Return a Result.
        """
        self.reset(deadline)
        self.total = len(items), sum(max(0, item.size) for item in items.values())
        todo = self.order([item for item in items.values() if not (self.journal.files and self.is_stored(item))])
        self.wanted = len(todo)
        for _ in range(4):
            self.failed = dict(missing)
            units = list(self.plan_units(todo, bundle))

            def unit(number, units=units):
                found = units[number] if number < len(units) else None
                return WholeFile(found) if isinstance(found, Item) else found

            self.run(unit, len(units))
            todo = []
            for name, error in self.failed.items():
                if isinstance(error, FileChanged) and os.path.exists(items[name].path):
                    found = os.stat(items[name].path)
                    items[name] = items[name]._replace(size=found.st_size, mtime=found.st_mtime)
                    todo.append(items[name])
            if not todo or self.ended_by:
                break
            time.sleep(WAIT)  # these files are being written; no event says when that ends
        return self.result(items)

    def reset(self, deadline):
        """Start afresh."""
        self.deadline, self.sent, self.ended_by, self.began = deadline or self.latest, 0, None, time.monotonic()
        self.bytes, self.wanted = 0, -1

    def is_stored(self, item, number=0, step=0):
        """Tell whether this very file, or a part of it, is stored."""
        entry = self.journal.files.get(item.name, b"")
        if isinstance(entry, bytes):
            return item.size < 0 < len(entry) or (not number and entry.startswith(head(*item[1:4])))
        if (entry["size"], entry["mtime"]) != item[2:4]:
            return False
        if number:
            return entry["step"] == step and number in entry["parts"]
        return sum(part["size"] for part in entry["parts"].values()) == item.size

    def plan_units(self, items, bundle):
        """Yield units, or Items that are to be one: files, bundles, then parts of large files, smallest file first."""
        batch, filled, large = [], 0, []
        if bundle:
            from agent.bundle import Bundle  # not in a VM that could not have the rest of the agent
        for item in items:
            if item.size < 0:
                self.journal.add({"path": item.name, "type": "dir", "mode": permissions(item.mode)})
            elif item.size > self.split:
                large.append(item)
            elif bundle and item.size < SMALL:
                batch.append(item)
                filled += 1024 + item.size
                if filled > BUNDLE_SIZE:
                    yield Bundle(batch)
                    batch, filled = [], 0
            else:
                yield item  # not yet a WholeFile: there may be very many
        if batch:
            yield Bundle(batch)
        for item in sorted(large, key=lambda item: item.size):
            step = min(max(PART_SIZE, -(-item.size // MAX_PARTS // SMALL) * SMALL), self.max_size)
            if item.size > step * 9999:
                text = "it takes over 9,999 parts of %d bytes" % self.max_size
                self.failed[item.name] = TransferError(text, ExitCode.REFUSED)
                continue
            for number, offset in enumerate(range(0, item.size, step), 1):
                if not self.is_stored(item, number, step):
                    yield FilePart(item, number, offset, min(step, item.size - offset), step)

    def run(self, unit, count=0):
        """Let workers upload unit(0), unit(1), … until None. `count` of them, or 0: unknown, and not to be shared out.

        In several processes only while there is no other thread here, which a fork would cut off.
        """
        self.doubt, self.pool = -1, Workers(self, unit)
        cores, (files, size) = min(len(os.sched_getaffinity(0)), 4), self.total
        if count and count < 3 and size < PART_SIZE:
            self.pool.run(0, 0)  # by this thread
        elif cores < 2 or not count or size >= files * SMALL or threading.active_count() > 1 or self.in_process:
            self.pool.run(self.workers if count else 4, 0)
        else:
            self.pool.run(self.workers, cores)

    def note_progress(self, files, size):
        """Count files stored and bytes sent since the last call."""
        self.sent += files
        self.bytes += size
        self.progress(files, size)

    def note_failure(self, name, error):
        """Record that a file failed. Return whether the whole push must end."""
        self.failed[name] = error
        if error.exit == ExitCode.UNREACHABLE:
            # Two files in a row failed and nothing arrived between them: the next would wait as long, for nothing.
            error.permanent = error.permanent or self.doubt == self.sent
            self.doubt = self.sent
        if not error.permanent or self.ended_by:
            return False
        self.ended_by = error
        return True

    def put(self, uploader, name, data):
        """Store one object. Raise TransferError."""
        return with_retries(lambda: uploader.post(name, data), self.deadline, self.pool.over.wait)

    def upload(self, unit, uploader):
        """Store one unit. Return how many files are whole now. Raise TransferError or OSError."""
        return unit.upload(self, uploader)

    def result(self, items):
        """Sum up."""
        self.journal.refresh()
        took = time.monotonic() - self.began
        if self.bytes > PART_SIZE:
            self.journal.add({"rate": self.bytes / took})
        for name, item in items.items() if self.failed or self.sent != self.wanted else ():
            if name not in self.failed and not self.is_stored(item):
                self.failed[name] = TransferError("not sent", ExitCode.SOME_FAILED)
        stored = [name for name, item in items.items() if name not in self.failed and item.size >= 0]
        codes = {error.exit for error in self.failed.values()}
        code = ExitCode.SOME_FAILED if codes else ExitCode.OK
        if self.ended_by:
            code = self.ended_by.exit
        elif ExitCode.USAGE in codes or (len(codes) == 1 and not stored):
            code = min(codes)
        failed = [(name, str(error)) for name, error in self.failed.items()]
        return Result(len(stored), sum(items[name].size for name in stored), self.sent, failed, code, stored)
