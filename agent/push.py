"""Puts files into the outputs prefix: which files, in what pieces, by which workers, and what became of each.

In process, as often as wanted, beside other agents on the same journal::

    pusher = Pusher(grant, journal_path, workers=32, split=1 << 30, rate=0)
    result = pusher.push(paths, base=".", as_name=None, bundle=False, deadline=0, progress=None)
    pusher.manifest(complete=True)          # stores the manifest of everything that the journal knows

`paths` are files, directories (whole, empty ones too) and glob patterns, relative to the current directory; keys are
relative to `base`. `progress(files, bytes)` is called as they arrive, `pusher.say(sentence)` for what was skipped.
`result` is a Result: `files` and `bytes` that are stored now, `sent` (files this call sent), `failed` [(path, sentence)],
`exit_code` (0 all stored, 2 a path matched nothing, 4 expired, 5 refused, 6 some failed, 7 unreachable, 8 integrity)
and so `expired`. A deadline (seconds since 1970) ends the push; what is left is listed as failed.

One failed file never stops the others; an expired grant or an unreachable store stops all. Workers are threads, in as
many processes as there are cores when this one has no other thread. A number that is passed around in a pipe says
which job is next; whoever stores an object appends it to the journal, then rings: one line in a second pipe,
"FILES BYTES" or a failure in JSON.
"""

import hashlib
import json
import os
import select
import signal
import stat
import time
from collections import namedtuple

from agent.grant import KEY_BUDGET, decode_name, encode_name
from agent.journal import Journal
from agent.post import Changed, Failed, Sender, insist, send

SMALL = 1 << 20  # bytes: sent in one piece from memory, and may go into a bundle
PART = 16 << 20  # bytes: no part but the last is smaller
PARTS = 5000  # at most, so that a file's entry fits into a manifest segment
BUNDLING = 32 << 20  # bytes of bundles in memory, all workers together

Item = namedtuple("Item", "path name size mtime mode root")
Job = namedtuple("Job", "items at size step")  # at: None for whole files; several items are a bundle
Result = namedtuple("Result", "files bytes sent failed exit_code")
Result.expired = property(lambda self: self.exit_code == 4)


def scan(paths, base, as_name, say):
    """Return {name: Item} of all that `paths` name, and {path: Failed} of what can't be had."""
    items, failed = {}, {}

    def visit(path, name, root, above, found=None):
        code = encode_name(name)
        try:
            found = found or os.stat(path)
            if len(code.encode()) > KEY_BUDGET:
                raise OSError(0, "its name is longer than a key can be")
            if stat.S_ISREG(found.st_mode):
                items[code] = Item(path, code, found.st_size, found.st_mtime, found.st_mode, root)
            elif stat.S_ISDIR(found.st_mode):
                above += (os.path.realpath(path),)
                with os.scandir(path) as entries:
                    inside = sorted(entries, key=lambda entry: entry.name)
                if not inside:
                    items[code + "/"] = Item(path, code + "/", -1, 0, found.st_mode, root)
                for entry in inside:
                    child = os.path.normpath(os.path.join(name, entry.name))
                    real = os.path.realpath(entry.path) if entry.is_symlink() else ""
                    if real and (real in above or not within(real, root) or not os.path.exists(real)):
                        say("skipped %s: a link to nothing, out of the tree, or back into itself" % encode_name(child))
                    else:
                        visit(entry.path, child, root, above, entry.stat())
            else:
                say("skipped %s: neither a file nor a directory" % code)
        except OSError as error:
            failed[code] = Failed(error.strerror, 6)

    for given in paths:
        found = [given]
        if not os.path.lexists(given):
            from glob import glob

            found = sorted(glob(given, recursive=True))
        if not found:
            failed[encode_name(given)] = Failed("no such file, and nothing matches it as a pattern", 2)
        for path in found:
            name = os.path.relpath(path, base)
            if as_name:
                name = as_name if [path] == list(paths) else os.path.join(as_name, name)
            if os.path.normpath(name).startswith(("..", "/")):
                failed[encode_name(path)] = Failed("it is not below the base directory: name another, or its key", 2)
            else:
                visit(path, os.path.normpath(name), os.path.realpath(path), ())
    return items, failed


def within(path, root):
    """Tell whether a real path is `root` or below it."""
    return (path + "/").startswith(root.rstrip("/") + "/")


def header(name, size, mtime, mode):
    """Return the tar header (POSIX ustar; GNU's @LongLink for a long name) of a file; `name` in bytes."""

    def block(name, size, kind):
        head = name[:100].ljust(100, b"\0") + b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode & 0o7777, 0, 0, size, mtime)
        tail = kind + bytes(100) + b"ustar  \0" + bytes(247)
        return head + b"%06o\0 " % (sum(head + tail) + 256) + tail

    long = b""
    if len(name) > 100:
        long = block(b"././@LongLink", len(name), b"L") + name.ljust(-len(name) // 512 * -512, b"\0")
    return long + block(name, size, b"0")


class Pusher:
    """See the module's text. `rate` caps the upload, in bytes a second; 0 doesn't."""

    def __init__(self, grant, journal, workers=32, split=1 << 30, rate=0, say=lambda text: None):
        self.grant, self.workers, self.rate, self.say = grant, workers, rate, say
        self.low, self.high = grant.outputs.size_range()
        self.split = min(split, self.high)
        self.journal = Journal(journal, grant.outputs.prefix)
        self.clock = 0

    def manifest(self, complete=True, until=0):
        """Store the manifest of everything in the journal, as the last act of a task. Raise Failed."""
        with self.journal:
            head = {"job": self.grant.job, "task": self.grant.task, "attempt": self.grant.attempt, "complete": complete}
            for name, data in self.journal.manifest(**head):
                send(self.grant.status, name, data, self.grant.expires, until)

    def push(self, paths, base=".", as_name=None, bundle=False, deadline=0, progress=lambda files, size: None):
        """Store what `paths` name. Return a Result; failures of single files are in it."""
        self.deadline, self.progress, self.sent, self.fatal = deadline, progress, 0, None
        items, failed = scan(paths, base, as_name, self.say)
        todo = items.values()
        for _ in range(4):  # a file that changed while it was read is looked at anew
            self.failed = {}
            self.run(list(self.cut(todo, bundle)).__getitem__)
            self.journal.refresh()
            changed = [name for name, failure in self.failed.items() if isinstance(failure, Changed)]
            if not changed or self.fatal:
                break
            again, _ = scan([items[name].path for name in changed], base, as_name, self.say)
            items.update(again)
            todo = again.values()
        return self.result(items, dict(failed, **self.failed))

    def pour(self, file, name, deadline=0, progress=lambda files, size: None):
        """Store what `file` (binary, unbuffered) yields until its end as one file called `name`. Return a Result."""
        raise NotImplementedError

    def result(self, items, failed):
        """Sum up."""
        for name, item in items.items():
            if name not in failed and not self.has(item):
                failed[name] = self.fatal or Failed("not sent", 6)
        stored = [item for name, item in items.items() if name not in failed and item.size >= 0]
        codes = {failure.exit for failure in failed.values()}
        code = 6
        if self.fatal:
            code = self.fatal.exit
        elif len(codes) < 2 and not stored or 2 in codes:
            code = min(codes or {0})
        elif not codes:
            code = 0
        pairs = [(name, str(failure)) for name, failure in failed.items()]
        return Result(len(stored), sum(max(0, item.size) for item in stored), self.sent, pairs, code)

    def has(self, item, at=None, step=0):
        """Tell whether this very file, or a part of it, is stored."""
        entry = self.journal.files.get(item.name, {})
        if (entry.get("size", -1), entry.get("mtime", 0)) != (item.size, item.mtime) or not entry:
            return False
        if at is not None:
            return entry.get("step") == step and at in entry["parts"]
        return "step" not in entry or sum(part["size"] for part in entry["parts"].values()) == item.size

    def cut(self, items, bundle):
        """Yield the Jobs: files in the order given, then bundles, then the parts of large files, the smallest first."""
        batch, filled, large = [], 0, []
        for item in items:
            if self.has(item):
                continue
            if item.size < 0:
                self.journal.add({"path": item.name, "type": "dir", "mode": "%04o" % (item.mode & 0o7777)})
            elif item.size < self.low:
                self.failed[item.name] = Failed("the policy wants at least %d bytes" % self.low, 5)
            elif item.size > self.split:
                large.append(item)
            elif bundle and item.size < SMALL:
                batch.append(item)
                filled += 1024 + item.size
                if filled > BUNDLING // self.workers:
                    yield Job(batch, None, filled, 1)
                    batch, filled = [], 0
            else:
                yield Job([item], None, item.size, 0)
        if batch:
            yield Job(batch, None, filled, 1)
        for item in sorted(large, key=lambda item: item.size):
            step = min(max(PART, -(-item.size // PARTS // SMALL) * SMALL), self.high)
            if item.size > step * 9999:
                self.failed[item.name] = Failed("the policy's %d bytes an object are too few for it" % self.high, 5)
            else:
                for at in range(0, item.size, step):
                    if not self.has(item, at, step):
                        yield Job([item], at, min(step, item.size - at), step)

    def run(self, jobs):
        """Let workers do jobs(0), jobs(1), … until IndexError; take in what they report."""
        self.bell, turn = os.pipe(), os.pipe()
        os.write(turn[1], b"%9d" % 0)

        def take():
            number = int(os.read(turn[0], 9))
            os.write(turn[1], b"%9d" % (number + 1))
            try:
                return jobs(number)
            except IndexError:
                return None

        import threading

        children = []
        crew = min(os.cpu_count() or 1, 4)
        if crew > 1 and threading.active_count() == 1 and not self.rate:
            for _ in range(crew):
                child = os.fork()
                if not child:
                    try:
                        signal.signal(signal.SIGINT, signal.SIG_IGN)
                        signal.signal(signal.SIGTERM, signal.SIG_DFL)
                        os.close(self.bell[0])
                        self.crew(take, self.workers // crew)
                    finally:
                        os._exit(0)
                children.append(child)
            os.close(self.bell[1])
        else:

            def work():
                self.crew(take, self.workers)
                os.close(self.bell[1])

            threading.Thread(target=work, daemon=True).start()
        try:
            self.listen()
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)

    def listen(self):
        """Take in what workers report until the last has gone, or nothing more can be done."""
        rest = b""
        while True:
            select.select([self.bell[0]], [], [], 0.5)
            heard = os.read(self.bell[0], 1 << 16)
            if not heard:
                return
            *lines, rest = (rest + heard).split(b"\n")
            os.fdatasync(self.journal.fd)
            for line in lines:
                if line[:1] == b"[":
                    name, text, code, changed, fatal = json.loads(line.decode())
                    failure = (Changed if changed else Failed)(text, code, fatal=fatal)
                    self.failed[name] = failure
                    if fatal:
                        self.fatal = failure
                        return
                else:
                    files, size = map(int, line.split())
                    self.sent += files
                    self.progress(files, size)

    def crew(self, take, limit):
        """Work with one thread, and with one more, up to `limit`, each time an object took longer than a moment."""
        import threading

        threads = []

        def work():
            sender = Sender(self.grant.outputs, self.grant.expires, self.pace)
            for job in iter(take, None):
                began = time.time()
                try:
                    self.do(job, sender)
                except (Failed, OSError) as failure:
                    code = getattr(failure, "exit", 6)
                    text = getattr(failure, "strerror", None) or str(failure)
                    fatal = getattr(failure, "fatal", False)
                    for item in job.items:
                        self.ring([item.name, text, code, isinstance(failure, Changed), fatal])
                if len(threads) < limit and time.time() - began > 0.005:
                    hire()
            sender.wire.close()

        def hire():
            threads.append(threading.Thread(target=work, daemon=True))
            threads[-1].start()

        hire()
        for thread in threads:
            thread.join()

    def ring(self, value):
        """Report to `listen`: a failure, or b"FILES BYTES"."""
        os.write(self.bell[1], (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n")

    def pace(self, count):
        """Be called before `count` bytes are sent: keep the rate and the deadline."""
        now = time.time()
        if self.deadline and now > self.deadline:
            raise Failed("out of time", 6, False, True)
        if self.rate:
            self.clock = max(self.clock, now) + count / self.rate
            time.sleep(self.clock - now)

    def do(self, job, sender):
        """Store one object, and journal it."""
        if len(job.items) > 1 or job.step == 1:
            return self.pack(job, sender)
        item = job.items[0]
        with opened(item) as file:
            found = os.fstat(file.fileno())
            entry = {"path": item.name, "mtime": found.st_mtime, "mode": "%04o" % (found.st_mode & 0o7777)}
            name, at, size = item.name, job.at or 0, found.st_size
            if job.at is not None:
                if (size, found.st_mtime) != (item.size, item.mtime):
                    raise Changed("it changed while it was read")
                entry.update(of=size, at=at, step=job.step)
                name, size = "%s.parts/%05d" % (name, at // job.step + 1), job.size
            if size > SMALL:
                entry.update(insist(lambda: sender.post(name, b"", file, at, size), until=self.deadline))
                still(file, found)
            else:
                data = os.pread(file.fileno(), size + 1, at)[:size]
                still(file, found)
                entry.update(insist(lambda: sender.post(name, data), until=self.deadline))
        self.journal.add(entry)
        self.ring(b"%d %d" % (at + size == found.st_size, size))

    def pack(self, job, sender):
        """Store many files as one tar."""
        tar, entries = bytearray(), []
        for item in job.items:
            try:
                with opened(item) as file:
                    found = os.fstat(file.fileno())
                    data = file.read(SMALL)
                    still(file, found)
            except (Failed, OSError) as failure:
                self.ring([item.name, str(failure), 6, isinstance(failure, Changed), False])
                continue
            tar += header(os.fsencode(decode_name(item.name)), len(data), int(found.st_mtime), found.st_mode)
            entry = {"path": item.name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            entry.update(mtime=found.st_mtime, mode="%04o" % (found.st_mode & 0o7777), offset=len(tar))
            entries.append(entry)
            tar += data + bytes(-len(data) % 512)
        tar += bytes(1024)
        name = ".bundles/%s.tar" % hashlib.sha256(tar).hexdigest()[:32]
        stored = insist(lambda: sender.post(name, tar), until=self.deadline)
        for entry in entries:
            entry.update(bundle=name, verified=stored["verified"])
        del stored["verified"]
        self.journal.add(dict(stored, object=name), *entries)
        self.ring(b"%d %d" % (len(entries), len(tar)))


def opened(item):
    """Open the file of an Item, wherever its path leads now, unless that is out of its tree."""
    fd = os.open(item.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(fd, "rb", 0)
    if not within(os.readlink("/proc/self/fd/%d" % fd), item.root) or not stat.S_ISREG(os.fstat(fd).st_mode):
        file.close()
        raise Changed("it is no longer the file that it was")
    return file


def still(file, found):
    """Raise Changed unless an open file is as `found` (from fstat) says."""
    now = os.fstat(file.fileno())
    if (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (found.st_size, found.st_mtime_ns, found.st_ctime_ns):
        raise Changed("it changed while it was read")
