"""The workers of a push: threads, in this process or in one for each core.

For small files, which keep the interpreter busy, there are as many processes as cores (when this one has no other
thread); for large ones this process alone, because hashing and sending them doesn't hold its lock. A number that is
handed round in a pipe says which unit is next; what becomes of them goes through a second pipe (`worker_reports`).
"""

import os
import signal
import threading
import time

from agent.errors import ExitCode, TransferError
from agent.upload_units import SMALL
from agent.worker_reports import ReportReader, failure, progress, read_error, write


class Workers:
    """Uploads the units of one push. `unit(number)` gives them, from 0, until it returns None.

    They upload by the `make_uploader` and `upload` of the `pusher`; its `note_progress` and `note_failure` get reports.
    """

    def __init__(self, pusher, unit):
        self.pusher, self.unit, self.over = pusher, unit, threading.Event()
        self.reports, self.report_fd = os.pipe()
        self.counter = os.pipe()
        os.write(self.counter[1], b"%9d" % 0)

    def run(self, threads, processes):
        """Let up to `threads` threads work, shared out among new `processes`, or in this one. Return when all is done.

        No thread at all is for a few units: this one does them itself, and reads its own reports afterwards.
        """
        children = []
        for _ in range(processes):
            child = os.fork()
            if not child:
                try:
                    signal.signal(signal.SIGINT, signal.SIG_IGN)
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                    os.close(self.reports)
                    self.run_workers(threads // processes)
                finally:
                    os._exit(0)
            children.append(child)
        if children:
            os.close(self.report_fd)
        elif not threads:
            self.run_workers(1)
        else:
            threading.Thread(target=self.run_workers, args=(threads,), daemon=True).start()
        try:
            self.collect_reports(children)
        finally:
            self.over.set()
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        for fd in (self.reports,) + self.counter:  # unless interrupted, when threads still use them
            os.close(fd)

    def collect_reports(self, children):
        """Pass on what workers report until the last of them has gone."""
        reader, synced = ReportReader(self.reports), 0
        while True:
            reports = reader.read()
            for report in reports or ():
                if "failed" not in report:
                    self.pusher.note_progress(report["stored"], report["sent"])
                elif self.pusher.note_failure(report["failed"], read_error(report)):
                    self.over.set()
                    for child in children:
                        os.kill(child, signal.SIGKILL)
            if reports is None or time.monotonic() - synced > 0.1:
                self.pusher.journal.sync()  # after those: a push that must end shouldn't wait for a disk
                synced = time.monotonic()
            if reports is None:
                return

    def take(self):
        """Return the next unit, or None when none is left."""
        number = int(os.read(self.counter[0], 9))
        try:
            return None if self.over.is_set() else self.unit(number)
        except OSError as error:
            self.fail("-", TransferError(error.strerror, ExitCode.SOME_FAILED, True))
        finally:
            os.write(self.counter[1], b"%9d" % (number + 1))

    def run_workers(self, limit):
        """Work with one thread, and with one more, up to `limit`, for each half core that was idle.

        They double at most; for large files one comes at a time. Where no core is idle, as when the store is on the
        same machine, threads only take time from each other.
        """
        others = []

        def work():
            uploader = self.pusher.make_uploader(
                self.pusher.grant.outputs, self.pusher.grant.expires, throttle=self.throttle
            )
            for unit in iter(self.take, None):
                try:
                    self.count(self.pusher.upload(unit, uploader), 0)
                except (TransferError, OSError) as error:
                    for item in unit.items:
                        self.fail(item.name, error)
                if time.monotonic() > self.due:
                    before, self.up = self.up, uptime()
                    self.due = time.monotonic() + 0.05
                    idle = (self.up[1] - before[1]) / (self.up[0] - before[0])
                    more = 1 if unit.items[0].size > SMALL else len(others) + 1
                    for _ in range(min(limit - 1 - len(others), more, int(2 * idle))):
                        others.append(threading.Thread(target=work, daemon=True))
                        others[-1].start()
            uploader.close()

        self.lock, self.up, self.pending, self.reported = threading.Lock(), uptime(), [0, 0], time.monotonic()
        self.due = self.reported + 0.05
        work()
        for thread in others:
            thread.join()
        self.report(progress(*self.pending))
        os.close(self.report_fd)

    def report(self, report):
        """Write a report; stop when the reader has gone."""
        try:
            write(self.report_fd, report)
        except BrokenPipeError:
            self.over.set()

    def fail(self, name, error):
        """Report a TransferError or an OSError of a file."""
        if not isinstance(error, TransferError):
            error = TransferError(error.strerror or str(error), ExitCode.SOME_FAILED)
        if error.permanent:
            self.over.set()
        self.reported = 0
        self.count(0, 0)  # what was stored before it
        self.report(failure(name, error))

    def throttle(self, count):
        """Report `count` bytes as sent; raise TransferError after the deadline; wait for the throttle."""
        pusher = self.pusher
        if self.over.is_set() or 0 < pusher.deadline < time.time():
            raise TransferError("out of time", ExitCode.SOME_FAILED, True)
        self.count(0, count)
        if pusher.throttle:
            pusher.throttle(count, self.over)

    def count(self, files, size):
        """Report files stored and bytes sent, ten times a second."""
        with self.lock:
            self.pending = [self.pending[0] + files, self.pending[1] + size]
            if time.monotonic() > self.reported + 0.1:
                self.report(progress(*self.pending))
                self.pending, self.reported = [0, 0], time.monotonic()


def uptime():
    """Return how long the machine has been up, and how long its cores have been idle, in seconds (proc(5))."""
    with open("/proc/uptime") as file:
        return tuple(map(float, file.read().split()))
