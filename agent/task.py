"""`agent run`: runs the job, reports how it goes, and uploads what it made.

Inputs, in the folder of the grant: ``files/``, which is copied into the work directory, and ``task.json``::

    {"command": [argv…], "env": {…}, "user": "job" or null, "timeout": s, "grace": s, "workdir": "/srv/job",
     "outputs": [{"glob": "out/**", "bundle": false}, …],
     "checkpoint": {"globs": […], "every": s}, if there are any; "spot": true, if the VM may be taken back}

Outputs, below the status prefix: the events `booted`, `started`, `heartbeat` and in the end one of `interrupted`,
`succeeded` and `failed`, each a JSON document; segments of the log; the manifest. The last event follows the manifest,
and the manifest every output. Where a part of the agent could not be had (agent/boot.py), events have a ``warning``,
outputs go up one by one, and the job runs without what that part does.

Kept beside the grant: ``log``, the job's output, and ``state``, which says how much of the log was uploaded and how the
job stands, and reserves room for what must be written when the job has filled the disk. After a reboot the job isn't
run again: what it left is uploaded, and `interrupted` reported if it had not ended.

The job's environment has FREEPOST_JOB, FREEPOST_TASK and FREEPOST_ATTEMPT, and FREEPOST_GRANT where it may read it.

Exit codes: OK, the job succeeded; JOB_FAILED; INTERRUPTED; otherwise the code of `agent push` for its outputs. What
acts beside the job, such as the push server, is handed in (agent/compose.py).
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress

from agent import layout
from agent.boot import complete
from agent.console import say
from agent.errors import ExitCode, TransferError
from agent.grant import timestamp
from agent.job_process import signal_job, start
from agent.push import Pusher, Result
from agent.upload import new_uploader, send

LOG_EVERY, HEARTBEAT = 10, 60  # seconds
SEGMENT = 1 << 19  # bytes of log in one object
ROOM = 1 << 24  # bytes of disk, for the journal of some 80,000 outputs


class Task:
    """One run, in the folder of its grant. `user` is a pwd entry, or None for the agent's own user."""

    is_pushing_outputs = False

    def __init__(self, grant, path, task, warning=None, make_uploader=new_uploader, companions=()):
        self.grant, self.path, self.task, self.workdir = grant, path, task, task["workdir"]
        self.warning, self.companions = warning, companions
        self.user = task["user"] and pwd.getpwnam(task["user"])
        self.fd = os.open(layout.STATE, os.O_RDWR | os.O_CREAT)
        self.state = json.loads(os.read(self.fd, 511).decode() or '{"log": [0, 0], "started": null}')
        self.save()
        os.ftruncate(self.fd, 511)
        self.pusher = Pusher(grant, layout.JOURNAL % path, say=say)
        self.pusher.make_uploader = make_uploader
        self.reason = self.child = self.told_to_stop = None
        self.over = threading.Event()

    def save(self, **changes):
        """Keep `changes` across a reboot, in place, within one sector: it needs no room and is never half written."""
        self.state.update(changes)
        os.pwrite(self.fd, b"%-511s" % json.dumps(self.state).encode(), 0)
        os.fsync(self.fd)

    def retry_until(self):
        """Return until when to retry: for a minute while the job runs; then 0, as the store knows the grant's end."""
        return 0 if self.over.is_set() else time.time() + 60

    def post(self, name, data):
        """Store one object below the status prefix. Raise TransferError."""
        send(self.grant.status, name, data, self.grant.expires, self.retry_until(), self.pusher.make_uploader)

    def post_event(self, event, **data):
        """Post an event. While the job runs, a failure is only said, and its exit code returned; then it is raised."""
        data.update(event=event, time=timestamp(time.time()), warning=self.warning)
        try:
            self.post(event, json.dumps(data).encode())
        except TransferError as error:
            if self.over.is_set():
                raise
            say("%s: %s" % (event, error))
            return error.exit
        return ExitCode.OK

    def prepare(self):
        """Make the work directory, with the job's files and inputs."""
        os.posix_fallocate(self.fd, 0, ROOM)
        shutil.rmtree(self.workdir, True)  # of a run that was cut off before the job began
        os.makedirs(layout.FILES, exist_ok=True)
        shutil.copytree(layout.FILES, self.workdir)
        if self.grant.inputs:
            from agent.pull import pull  # it may not be packed

            for pair in pull(self.grant, self.workdir, say):
                raise TransferError("input %s: %s" % pair)
        if self.user:
            subprocess.check_call(["chown", "-hR", self.user.pw_name + ":", self.workdir])

    def stop(self, number, _):
        """End the job: its time is up (SIGALRM) or the system says so. SIGTERM, and after the grace SIGKILL."""
        if self.child.returncode == 0 or (self.told_to_stop and number != signal.SIGALRM):
            return  # it has succeeded already, or has its SIGTERM
        if not self.told_to_stop:
            self.reason = "interrupted by signal %d" % number
            if number == signal.SIGALRM:
                self.reason = "it ran into its timeout of %d s" % self.task["timeout"]
        signal.alarm(max(1, self.task["grace"]))
        signal_job(self.child, self.user, signal.SIGKILL if self.told_to_stop else signal.SIGTERM)
        self.told_to_stop = True

    def upload_log(self):
        """Upload what the log has that was not uploaded yet. Raise TransferError."""
        at, number = self.state["log"]
        with open(layout.LOG, "ab+") as log:
            log.seek(at)
            for data in iter(lambda: log.read(SEGMENT), b""):
                at, number = at + len(data), number + 1
                self.post(layout.LOG_SEGMENT % number, data)
                self.save(log=[at, number])

    def upload_loop(self):
        """Upload log, heartbeats and checkpoints until the job is over, and what is left of the log before all outputs.

        What fails is said, and tried again later.
        """
        checkpoint, event, over, pause = self.task.get("checkpoint"), layout.STARTED, False, 0
        beat = saved = time.monotonic()  # the clock may be set right meanwhile
        while not over:
            over, now, pause = self.over.wait(pause), time.monotonic(), LOG_EVERY
            try:
                if event == layout.STARTED or now - beat >= HEARTBEAT:
                    beat = now
                    self.post_event(event)
                    event = layout.HEARTBEAT
                self.upload_log()
                if checkpoint and now - saved >= checkpoint["every"] and not over:
                    saved = now
                    self.push(checkpoint["globs"])
                    self.pusher.manifest(False, self.retry_until())
            except (TransferError, OSError) as error:
                say(error)

    def push(self, globs, bundle=False):
        """Push globs of the work directory, opening files as the job's user: no link leads to what it may not read."""
        os.chdir(self.workdir)
        if self.user:
            os.setegid(self.user.pw_gid)
            os.seteuid(self.user.pw_uid)
        try:
            self.is_pushing_outputs = self.over.is_set()  # and no checkpoint
            result = self.pusher.push(globs, ".", None, bundle and not self.warning)
        except TransferError as error:  # there was no time left
            result = Result(0, 0, 0, [("outputs", str(error))], error.exit, [])
        finally:
            self.is_pushing_outputs = False
            if self.user:
                os.seteuid(0)
                os.setegid(0)
            os.chdir(os.path.dirname(self.path))
        for each in self.companions:
            each.pushed(result)
        return result

    def finish(self):
        """Push the outputs, then the log, the manifest and the last event. Return the exit code."""
        for each in self.companions:
            each.finishing(self)
        code, failed, files, size = ExitCode.OK, [], 0, 0
        if self.reason:  # there may be little time left
            self.pusher.order = lambda items: sorted(items, key=lambda item: item.size)
        for bundle in (False, True):
            globs = [item["glob"] for item in self.task["outputs"] if item["bundle"] is bundle]
            if globs:
                result = self.push(globs, bundle)
                code, files, size = code or result.exit_code, files + result.files, size + result.bytes
                failed += result.failed
        try:
            self.upload_log()
            self.pusher.manifest(not code)
        except TransferError as error:
            code = code or error.exit
            failed.append(("manifest and log", str(error)))
        status = self.state.get("status")
        good = status == 0 and not self.reason
        if good and failed:
            self.reason = "%d outputs failed; %s: %s" % ((len(failed),) + tuple(failed[0]))
        interrupted = (self.reason or "").startswith("interrupted")
        self.post_event(
            layout.SUCCEEDED if good and not code else layout.INTERRUPTED if interrupted else layout.FAILED,
            exit_code=status,
            reason=self.reason,
            upload={"files": files, "bytes": size, "failed": failed[:100]},
            started=self.state["started"],
        )
        return code if good else ExitCode.INTERRUPTED if interrupted else ExitCode.JOB_FAILED

    def run(self):
        """Run the job or, after a reboot, only finish it. Return the exit code.

        Raise TransferError when the last event can't be posted.
        """
        if self.state["started"]:
            self.reason = self.state["reason"]
        else:
            if self.post_event(layout.BOOTED) in (ExitCode.EXPIRED, ExitCode.REFUSED):
                return ExitCode.REFUSED  # nothing that the job makes would be taken
            try:
                self.prepare()
                for each in self.companions:
                    each.starting(self)
                self.child = start(self.task, self.user, self.grant, self.path)
                for each in self.companions:
                    each.started(self)
            except (OSError, ImportError, subprocess.SubprocessError, TransferError) as error:
                self.reason = "it could not be started: %s" % error
            else:
                self.save(started=timestamp(time.time()), reason="interrupted: the VM restarted")
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
                    signal.signal(number, self.stop)
                signal.alarm(self.task["timeout"])
                uploads = threading.Thread(target=self.upload_loop, daemon=True)
                uploads.start()
                os.sync()  # or a power cut may take the grant, which cloud-init has only just written
                self.child.wait()
                signal.alarm(0)
                signal_job(self.child, self.user, signal.SIGKILL)
                self.over.set()
                uploads.join()
                os.sync()  # a status must not outlive the outputs
                self.save(status=self.child.returncode, reason=self.reason)
        self.over.set()
        os.ftruncate(self.fd, 511)
        return self.finish()


def run(grant, path):
    """Run the task beside the grant at `path`. Return the exit code."""
    os.chdir(os.path.dirname(path))
    with open(layout.TASK) as file:
        task = json.load(file)
    warning = grant.agent and complete(grant.agent)
    if warning:
        say(warning)
    until, make_uploader, companions = grant.expires, new_uploader, ()
    with suppress(ImportError):  # it isn't in a VM that has only what its job needs, and that needs nothing of it
        from agent.compose import compose

        until, make_uploader, companions = compose(grant, path, task)
    # Our clock may be wrong; the store knows when a grant has expired.
    grant = grant._replace(expires=until if time.time() <= until else 0)
    try:
        return Task(grant, path, task, warning, make_uploader, companions).run()
    except TransferError as error:
        say(error)
        return error.exit
    finally:
        for each in companions:
            each.finished()
