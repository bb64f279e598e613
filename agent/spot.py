"""Ends the job of a spot VM in time when AWS gives notice, two minutes ahead ("Spot Instance interruption notices").

For tasks that say ``spot``. A process beside `agent run` asks the metadata service every 5 s; every minute where there
is none. Another process, because `agent.push` shares its work out to processes only while it has no second thread. On
notice the job gets its SIGTERM, and SIGKILL after its grace or when half of the time is over; then come the outputs,
until 15 s before the end, and in these the log, the manifest and `interrupted`. A notice that comes when the job is
over only sets the deadline: the last event may still be `succeeded`.
"""

import json
import os
import signal
import time

from agent.companion import Companion
from agent.console import say
from agent.errors import ExitCode, TransferError
from agent.grant import instant, timestamp
from agent.imds import get_metadata

EVERY, SELDOM = 5, 60  # seconds between two requests: where there is a metadata service, and where there is none
NOTICE, RESERVE = 120, 15  # seconds: the notice that AWS gives; what log, manifest and last event may take


class SpotCompanion(Companion):
    """Ends the job and its uploads in time."""

    poller = end = task = None

    def started(self, task):
        """Start the process that waits for a notice."""
        self.task = task
        self.pipe, pipe = os.pipe()
        signal.signal(signal.SIGUSR1, self.noticed)
        parent = os.getpid()
        self.poller = os.fork()
        if not self.poller:
            try:
                watch_for_notice(pipe, parent)
            finally:
                os._exit(0)
        os.close(pipe)

    def noticed(self, *_):
        """Handle SIGUSR1: the first says that notice was given, the second that uploads must end now."""
        task = self.task
        if self.end:
            if task.is_pushing_outputs:
                raise TransferError("the spot VM's time is up", ExitCode.SOME_FAILED)
            return
        stop, self.end = map(int, os.read(self.pipe, 99).split())
        task.pusher.latest = task.pusher.deadline = stop  # of what follows, and of a checkpoint that is being pushed
        say("spot capacity is taken back at %s" % timestamp(self.end))
        if not (task.over.is_set() or task.told_to_stop):
            task.task["grace"] = min(task.task["grace"], int(stop - time.time()) // 2)
            task.stop(signal.SIGTERM, None)
            task.reason = "interrupted: spot capacity was taken back, with notice until %s" % timestamp(self.end)

    def finished(self):
        """End the process that waits for a notice."""
        if self.poller:
            os.kill(self.poller, signal.SIGKILL)
            os.waitpid(self.poller, 0)


def watch_for_notice(pipe, parent, host=None):
    """Wait for a notice while `parent` lives; then write when uploads and all must end, and signal `parent` twice."""
    notice, pause = None, EVERY
    while not notice:
        time.sleep(pause)  # the metadata service has to be asked
        if os.getppid() != parent:
            return
        try:
            notice, pause = get_metadata("spot/instance-action", host), EVERY
        except OSError:
            pause = SELDOM
    try:
        left = instant(json.loads(notice)["time"]) - time.time()
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
