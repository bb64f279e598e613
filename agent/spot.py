"""Heeds the notice that a spot VM's end is near (AWS, "Spot Instance interruption notices": two minutes before it).

For tasks that say ``spot``. A process beside `agent run` asks the metadata service every 5 s; every minute where there
is none. Another process, because `agent.push` shares its work out to processes
only while it has no second thread. On notice the job gets its SIGTERM, and SIGKILL after its grace or when half of the
time is over; then come the outputs, until 15 s before the end, and in these the log, the manifest and `interrupted`.
A notice that comes when the job is over only sets the deadline: it may still be `succeeded`.
"""

import json
import os
import signal
import time

from agent.grant import instant, timestamp
from agent.http import Failed
from agent.imds import told
from agent.main import say
from agent.push import Result

EVERY, SELDOM = 5, 60  # seconds between two looks
NOTICE, RESERVE = 120, 15  # seconds: what AWS gives; what the last words may take


class Spot:
    """What a Task does besides."""

    poller = end = stored = None

    def start(self):
        """Start the command, and then the process that looks out for a notice."""
        super().start()
        self.pipe, pipe = os.pipe()
        signal.signal(signal.SIGUSR1, self.noticed)
        parent = os.getpid()
        self.poller = os.fork()
        if not self.poller:
            try:
                look(pipe, parent)
            finally:
                os._exit(0)
        os.close(pipe)

    def noticed(self, *_):
        """Be told of the end, and a second time when uploads must end."""
        if self.end:
            if self.stored is False:
                raise Failed("the spot VM's time is up", 6)
            return
        stop, end = map(int, os.read(self.pipe, 99).split())
        self.end = end
        self.pusher.deadline = stop  # of a checkpoint that is being pushed; and of what follows
        begin = self.pusher.begin
        self.pusher.begin = lambda _: begin(stop)
        say("spot capacity is taken back at %s" % timestamp(end))
        if not (self.over.is_set() or self.asked):
            self.task["grace"] = min(self.task["grace"], int(stop - time.time()) // 2)
            self.stop(signal.SIGTERM, None)
            self.reason = "interrupted: spot capacity was taken back, with notice until %s" % timestamp(end)

    def push(self, globs, bundle=False):
        """Push, but no longer than there is time."""
        self.stored = not self.over.is_set()  # a checkpoint has its own deadline
        try:
            return super().push(globs, bundle)
        except Failed as failure:
            if not self.end:
                raise
            return Result(0, 0, 0, [("outputs", str(failure))], failure.exit, [])
        finally:
            self.stored = True

    def finish(self):
        """Finish; nobody needs to look out any more."""
        try:
            return super().finish()
        finally:
            if self.poller:
                os.kill(self.poller, signal.SIGKILL)
                os.waitpid(self.poller, 0)


def look(pipe, parent, host=None):
    """Look out for a notice while `parent` lives; then write when uploads and all must end, and signal it twice."""
    said, pause = None, EVERY
    while not said:
        time.sleep(pause)  # the metadata service has to be asked
        if os.getppid() != parent:
            return
        try:
            said, pause = told("spot/instance-action", host), EVERY
        except OSError:
            pause = SELDOM
    try:
        left = instant(json.loads(said)["time"]) - time.time()
    except (ValueError, KeyError, TypeError):
        left = 0
    if not 0 < left <= NOTICE + EVERY:  # the two clocks differ: it is too early to give up, and there is little time
        left = NOTICE / 2
    end = time.time() + left
    stop = end - min(RESERVE, left / 4)
    os.write(pipe, b"%d %d" % (stop, end))
    for pause in (0, stop - time.time()):
        time.sleep(pause)  # there is only the clock to wait for
        if os.getppid() == parent:
            os.kill(parent, signal.SIGUSR1)
