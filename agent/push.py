"""Puts files into the outputs prefix: which files, in what pieces, by which workers, and what became of each.

In process, as often as wanted, beside other agents on the same journal::

    pusher = Pusher(grant, journal_path, workers=32, split=1 << 30, say=print)
    result = pusher.push(paths, base=".", as_name=None, bundle=False, deadline=0)
    pusher.manifest(complete=True)  # stores the manifest of everything that the journal knows

`paths` are files, directories (whole, empty ones too) and glob patterns, relative to the current directory; keys are
relative to `base`. `pusher.say(sentence)` is told what is skipped; `pusher.progress(files, bytes)` what goes out,
of `pusher.total` (files, bytes; of a stream unknown).
A Result has `stored` (paths), `files` and `bytes` that are stored now, `sent` (files that this call sent), `failed`
[(path, sentence)], `exit_code` (0 all stored, 2 a path matches nothing, 4 expired, 5 refused, 6 some failed,
7 unreachable, 8 integrity).
A deadline (seconds since 1970) ends the push; what is left counts as failed.

One failed file never stops the others; an expired grant or an unreachable store stops all. Workers are threads: for
small files, which keep the interpreter busy, in as many processes as there are cores (when this one has no other
thread); for large ones in this one, because hashing and sending them doesn't hold its lock. A number that is handed
round in a pipe says which job is next; whoever stores an object appends it to the journal, then rings: a line in a
second pipe, of JSON, [files, bytes] or [path, sentence, exit code, changed, fatal].
"""

import json
import os
import signal
import threading
import time
from collections import namedtuple

from agent.files import Item, Opened, mode, scan
from agent.http import WAIT, Changed, Failed, Sender, insist, send
from agent.journal import Journal, head

SMALL = 1 << 20  # bytes: files up to this are sent from memory, and go into a bundle if asked
PART, PARTS = 16 << 20, 5000  # the least bytes of a part; the most parts, so that their list fits into a manifest
BUNDLE = 1 << 20  # bytes of a bundle; two at most are in the memory of each process

Job = namedtuple("Job", "items number at size step")  # number: 0 for a file, -1 for a bundle, otherwise of a part
Result = namedtuple("Result", "files bytes sent failed exit_code stored")


class Pusher:
    """See the module's text."""

    alone = False  # work in this process only

    def __init__(self, grant, journal, workers=32, split=1 << 30, say=lambda text: None):
        self.grant, self.workers, self.say = grant, workers, say
        _, self.high = grant.outputs.size_range()
        self.split = grant.outputs.fields.get("split") or min(split, self.high)
        self.journal = Journal(journal, grant.outputs.prefix)
        self.progress, self.total, self.order = lambda files, size: None, (0, 0), list

    def manifest(self, complete=True, until=0):
        """Store the manifest of everything in the journal: the last act, but for the final event. Raise Failed."""
        job, task, attempt = self.grant[:3]
        with self.journal:
            for name, data in self.journal.manifest(job=job, task=task, attempt=attempt, complete=complete):
                send(self.grant.status, name, data, self.grant.expires, until)

    def push(self, paths, base=".", as_name=None, bundle=False, deadline=0):
        """Store what `paths` name. Return a Result; failures of single files are in it."""
        return self.store(*scan(paths, base, as_name, self.say), bundle, deadline)

    def store(self, items, missing, bundle=False, deadline=0):
        """Store Items by name, as `scan` gives them: with what is `missing`, a Failed by name. Return a Result."""
        self.begin(deadline)
        self.total = len(items), sum(max(0, item.size) for item in items.values())
        todo = self.order([item for item in items.values() if not (self.journal.files and self.has(item))])
        self.wanted = len(todo)
        for _ in range(4):
            self.failed = dict(missing)
            jobs = list(self.cut(todo, bundle))

            def job(number, jobs=jobs):
                found = jobs[number] if number < len(jobs) else None
                return Job([found], 0, 0, 0, 0) if isinstance(found, Item) else found

            self.run(job, len(jobs))
            todo = []
            for name, failure in self.failed.items():
                if isinstance(failure, Changed) and os.path.exists(items[name].path):
                    found = os.stat(items[name].path)
                    items[name] = items[name]._replace(size=found.st_size, mtime=found.st_mtime)
                    todo.append(items[name])
            if not todo or self.fatal:
                break
            time.sleep(WAIT)  # for whoever writes these files; no event tells when they are done
        return self.result(items)

    def begin(self, deadline):
        """Start afresh."""
        self.deadline, self.sent, self.fatal, self.clock = deadline, 0, None, time.monotonic()
        self.bytes, self.wanted = 0, -1

    def has(self, item, number=0, step=0):
        """Tell whether this very file, or a part of it, is stored."""
        entry = self.journal.files.get(item.name, b"")
        if isinstance(entry, bytes):
            return item.size < 0 < len(entry) or (not number and entry.startswith(head(*item[1:4])))
        if (entry["size"], entry["mtime"]) != item[2:4]:
            return False
        if number:
            return entry["step"] == step and number in entry["parts"]
        return sum(part["size"] for part in entry["parts"].values()) == item.size

    def cut(self, items, bundle):
        """Yield Jobs, or Items that are to be one: files, bundles, then parts of large files, smallest file first."""
        batch, filled, large = [], 0, []
        for item in items:
            if item.size < 0:
                self.journal.add({"path": item.name, "type": "dir", "mode": mode(item.mode)})
            elif item.size > self.split:
                large.append(item)
            elif bundle and item.size < SMALL:
                batch.append(item)
                filled += 1024 + item.size
                if filled > BUNDLE:
                    yield Job(batch, -1, 0, 0, 0)
                    batch, filled = [], 0
            else:
                yield item  # not yet a Job: there may be very many
        if batch:
            yield Job(batch, -1, 0, 0, 0)
        for item in sorted(large, key=lambda item: item.size):
            step = min(max(PART, -(-item.size // PARTS // SMALL) * SMALL), self.high)
            if item.size > step * 9999:
                self.failed[item.name] = Failed("it takes over 9,999 parts of %d bytes" % self.high, 5)
                continue
            only = [item]
            for number, at in enumerate(range(0, item.size, step), 1):
                if not self.has(item, number, step):
                    yield Job(only, number, at, min(step, item.size - at), step)

    def run(self, jobs, count=0):
        """Let workers do jobs(0), jobs(1), … until None. `count` of them, or 0: unknown, and not to be shared out."""
        self.bell, turn, children = os.pipe(), os.pipe(), []
        self.over = threading.Event()
        os.write(turn[1], b"%9d" % 0)

        def take():
            number = int(os.read(turn[0], 9))
            try:
                return None if self.over.is_set() else jobs(number)
            except OSError as error:
                self.ring("-", error.strerror, 6, False, True)
            finally:
                os.write(turn[1], b"%9d" % (number + 1))

        cores = min(len(os.sched_getaffinity(0)), 4)
        files, size = self.total
        if count and count < 3 and size < PART:
            self.crew(take, 1)
        elif cores > 1 and count and size < files * SMALL and threading.active_count() == 1 and not self.alone:
            for _ in range(cores):
                child = os.fork()
                if not child:
                    try:
                        signal.signal(signal.SIGINT, signal.SIG_IGN)
                        signal.signal(signal.SIGTERM, signal.SIG_DFL)
                        os.close(self.bell[0])
                        self.crew(take, self.workers // cores)
                    finally:
                        os._exit(0)
                children.append(child)
            os.close(self.bell[1])
        else:
            threading.Thread(target=self.crew, args=(take, self.workers if count else 4), daemon=True).start()
        try:
            self.listen(children)
        finally:
            self.over.set()
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        for fd in (self.bell[0],) + turn:  # unless interrupted, when threads still use them
            os.close(fd)

    def listen(self, children):
        """Take in what workers report until the last of them has gone."""
        rest, synced, doubt = b"", 0, -1
        while True:
            heard = os.read(self.bell[0], 1 << 16)
            if not heard or time.monotonic() - synced > 0.1:
                os.fdatasync(self.journal.fd)
                synced = time.monotonic()
            if not heard:
                return
            *lines, rest = (rest + heard).split(b"\n")
            for line in lines:
                name, *more = json.loads(line.decode())
                if len(more) == 1:
                    self.sent += name
                    self.bytes += more[0]
                    self.progress(name, more[0])
                    continue
                text, code, changed, fatal = more
                self.failed[name] = failure = Changed() if changed else Failed(text, code)
                if code == 7:  # twice in a row and nothing arrived: the next would wait as long, for nothing
                    fatal = fatal or doubt == self.sent
                    doubt = self.sent
                if fatal and not self.fatal:
                    self.fatal = failure
                    self.over.set()
                    for child in children:
                        os.kill(child, signal.SIGKILL)

    def crew(self, take, limit):
        """Work with one thread, and with one more, up to `limit`, for each half core that was idle.

        They double at most; for large files one comes at a time. Where no core is idle, as when the store is on the
        same machine, threads only take time from each other.
        """
        others = []

        def work():
            sender = Sender(self.grant.outputs, self.grant.expires, pace=self.pace)
            for job in iter(take, None):
                try:
                    self.do(job, sender)
                except (Failed, OSError) as failure:
                    for item in job.items:
                        self.fail(item.name, failure)
                if time.monotonic() > self.due:
                    before, self.up = self.up, uptime()
                    self.due = time.monotonic() + 0.05
                    idle = (self.up[1] - before[1]) / (self.up[0] - before[0])
                    more = 1 if job.items[0].size > SMALL else len(others) + 1
                    for _ in range(min(limit - 1 - len(others), more, int(2 * idle))):
                        others.append(threading.Thread(target=work, daemon=True))
                        others[-1].start()
            sender.close()

        self.packing, self.lock = threading.Semaphore(2), threading.Lock()
        self.up, self.news, self.rung = uptime(), [0, 0], time.monotonic()
        self.due = self.rung + 0.05
        work()
        for thread in others:
            thread.join()
        self.ring(*self.news)
        os.close(self.bell[1])

    def ring(self, *values):
        """Report to `listen`; when nobody listens any more, stop."""
        try:
            os.write(self.bell[1], json.dumps(values).encode() + b"\n")
        except BrokenPipeError:
            self.over.set()

    def fail(self, name, failure):
        """Report a Failed or an OSError."""
        text, fatal = getattr(failure, "strerror", None) or str(failure), getattr(failure, "fatal", False)
        if fatal:
            self.over.set()
        self.rung = 0
        self.count(0, 0)  # what was stored before it
        self.ring(name, text, getattr(failure, "exit", 6), isinstance(failure, Changed), fatal)

    def pace(self, count):
        """Be called before `count` bytes are sent: tell, and keep the deadline."""
        if self.over.is_set() or 0 < self.deadline < time.time():
            raise Failed("out of time", 6, True)
        self.count(0, count)

    def count(self, files, size):
        """Report files stored and bytes sent, ten times a second."""
        with self.lock:
            self.news = [self.news[0] + files, self.news[1] + size]
            if time.monotonic() > self.rung + 0.1:
                self.ring(*self.news)
                self.news, self.rung = [0, 0], time.monotonic()

    def put(self, sender, name, data):
        """Store one object."""
        return insist(lambda: sender.post(name, data), self.deadline, self.over.wait)

    def do(self, job, sender):
        """Do one job, and journal it."""
        if job.number < 0:
            with self.packing:
                from agent.bundle import pack

                return pack(self, job.items, sender)
        item = job.items[0]
        with Opened(item) as opened:
            name, size, mtime = item.name, opened.found.st_size, opened.found.st_mtime
            entry = {"path": name, "size": size, "mtime": mtime, "mode": mode(opened.found.st_mode)}
            if job.number:
                if item.size >= 0 and (size, mtime) != (item.size, item.mtime):
                    raise Changed
                del entry["size"]
                entry.update(of=item.size, part=job.number, step=job.step, mtime=item.mtime)
                name, size = "%s.parts/%05d" % (name, job.number), job.size
            elif size > self.split:
                raise Changed
            if size > SMALL or job.number:
                try:
                    entry.update(self.put(sender, name, (opened.fd, job.at, size)))
                finally:
                    opened.still()
            else:
                entry.update(self.put(sender, name, opened.read()))
        self.journal.add(entry)
        self.count(int(not job.number or job.at + size == item.size), 0)

    def result(self, items):
        """Sum up."""
        self.journal.refresh()
        took = time.monotonic() - self.clock
        if self.bytes > PART:
            self.journal.add({"rate": self.bytes / took})
        for name, item in items.items() if self.failed or self.sent != self.wanted else ():
            if name not in self.failed and not self.has(item):
                self.failed[name] = Failed("not sent", 6)
        stored = [name for name, item in items.items() if name not in self.failed and item.size >= 0]
        codes = {failure.exit for failure in self.failed.values()}
        code = 6 if codes else 0
        if self.fatal:
            code = self.fatal.exit
        elif 2 in codes or (len(codes) == 1 and not stored):
            code = min(codes)
        failed = [(name, str(failure)) for name, failure in self.failed.items()]
        return Result(len(stored), sum(items[name].size for name in stored), self.sent, failed, code, stored)


def uptime():
    """Return how long the machine has been up, and how long its cores have been idle, in seconds (proc(5))."""
    with open("/proc/uptime") as file:
        return tuple(map(float, file.read().split()))
