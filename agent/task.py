"""`agent run`: runs the job, tells how it goes, and brings home what it made.

Reads task.json, beside the grant::

    {"command": [argv…], "env": {…}, "user": "job" or null, "timeout": s, "grace": s, "workdir": "/srv/job",
     "outputs": [{"glob": "out/**", "bundle": false}, …], "checkpoint": {"globs": […], "every": s} or null}

and ``files/`` beside it, which are copied into the work directory. The job's output goes to the file ``log``; how far
it was uploaded, and that the job was started, stands in ``state``: after a reboot the job isn't run again, what it
left is uploaded and `interrupted` is reported. Events (booted, started, heartbeat and one of interrupted, succeeded,
failed) and log segments are posted below the status prefix; the last event follows the manifest, and the manifest
every output. The job's environment has FREEPOST_JOB, _TASK and _ATTEMPT, and FREEPOST_GRANT where it may read it.

Exit codes: 0 succeeded; 1 the job failed; 130 interrupted; otherwise the code of `agent push` for its outputs.
"""

import contextlib
import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import threading
import time

from agent import __version__
from agent.command import load, say
from agent.grant import encode_name, timestamp
from agent.post import Failed, send
from agent.push import Pusher

LOG_EVERY, HEARTBEAT = 10, 60  # seconds
SEGMENT = 1 << 19  # bytes of log in one object


class Task:
    """One run. `user` is a pwd entry, or None for the agent's own user."""

    def __init__(self, grant, path, task, workdir, user):
        self.grant, self.task, self.user = grant, task, user
        self.home = os.path.dirname(os.path.abspath(path))
        self.path, self.workdir = os.path.abspath(path), os.path.abspath(workdir)
        self.pusher = Pusher(grant, self.path + ".journal", say=say)
        self.started, self.code, self.signal, self.reason = None, None, None, None
        self.over = threading.Event()
        self.state = {"log": [0, 0], "started": None}
        with contextlib.suppress(FileNotFoundError, ValueError), open(self.beside("state")) as file:
            self.state = json.load(file)

    def beside(self, name):
        """A file of ours, beside the grant."""
        return os.path.join(self.home, name)

    def save(self, **news):
        """Remember across a reboot."""
        self.state.update(news)
        with open(self.beside("state.new"), "w") as file:
            json.dump(self.state, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(self.beside("state.new"), self.beside("state"))

    def post(self, event, until=0, **data):
        """Post an event. Raise Failed."""
        data.update(
            event=event,
            time=timestamp(time.time()),
            job=self.grant.job,
            task=self.grant.task,
            attempt=self.grant.attempt,
        )
        send(self.grant.status, event, json.dumps(data).encode(), self.grant.expires, until)

    @contextlib.contextmanager
    def as_user(self):
        """Open files as the job's user, so that no link in its outputs leads to what it may not read."""
        if self.user:
            os.setegid(self.user.pw_gid)
            os.seteuid(self.user.pw_uid)
        try:
            yield
        finally:
            if self.user:
                os.seteuid(0)
                os.setegid(0)

    def prepare(self):
        """Make the work directory, with the job's files and inputs."""
        os.makedirs(self.workdir, exist_ok=True)
        for folder, _, names in os.walk(self.beside("files")):
            to = os.path.join(self.workdir, os.path.relpath(folder, self.beside("files")))
            os.makedirs(to, exist_ok=True)
            for name in names:
                shutil.copy(os.path.join(folder, name), to)
        if self.grant.inputs:
            from agent.pull import pull

            failed = pull(self.grant, self.workdir, say)
            if failed:
                raise Failed("the inputs could not be had: %s: %s" % failed[0], 6)
        if self.user:
            for folder, _, names in os.walk(self.workdir):
                for name in [""] + names:
                    os.lchown(os.path.join(folder, name), self.user.pw_uid, self.user.pw_gid)

    def start(self):
        """Start the command in a process group of its own, as its user."""
        environ = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": self.workdir}
        if self.user:
            environ.update(HOME=self.user.pw_dir, USER=self.user.pw_name, LOGNAME=self.user.pw_name)
        else:
            environ["FREEPOST_GRANT"] = self.path
        for name in ("job", "task", "attempt"):
            environ["FREEPOST_" + name.upper()] = str(getattr(self.grant, name))
        environ.update(self.task["env"])

        def become():
            os.setpgid(0, 0)
            if self.user:
                os.initgroups(self.user.pw_name, self.user.pw_gid)
                os.setgid(self.user.pw_gid)
                os.setuid(self.user.pw_uid)

        with open(self.beside("log"), "ab") as log:
            return subprocess.Popen(
                self.task["command"],
                cwd=self.workdir,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=become,  # noqa: PLW1509 - Python 3.6 has no other way; threads start after it
            )

    def supervise(self, child, wake):
        """Wait for the job. End it when its time is up or the system says so: SIGTERM, the grace, SIGKILL."""
        due, ask = time.time() + self.task["timeout"], signal.SIGTERM
        while child.poll() is None:
            if wake.stop and not self.reason:
                self.reason, due = "interrupted: " + wake.stop, 0
            if time.time() >= due:
                self.reason = self.reason or "the job ran longer than its timeout of %d s" % self.task["timeout"]
                self.hit(child, ask)
                ask, due = signal.SIGKILL, time.time() + (self.task["grace"] if ask == signal.SIGTERM else 5)
            wake.wait(max(0, due - time.time()))
        self.hit(child, signal.SIGKILL)
        self.code, self.signal = (child.returncode, None) if child.returncode >= 0 else (None, -child.returncode)

    def hit(self, child, number):
        """Signal the job: its process group, and at the end whatever else its user runs."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        if self.user and number == signal.SIGKILL:
            killer = os.fork()
            if not killer:
                with contextlib.suppress(OSError):
                    os.setgid(self.user.pw_gid)
                    os.setuid(self.user.pw_uid)
                    os.kill(-1, number)
                os._exit(0)
            os.waitpid(killer, 0)

    def ship_log(self):
        """Upload what the log has that was not uploaded yet. Raise Failed."""
        at, number = self.state["log"]
        with open(self.beside("log"), "rb") as log:
            log.seek(at)
            for data in iter(lambda: log.read(SEGMENT), b""):
                at, number = at + len(data), number + 1
                send(self.grant.status, "log/%06d" % number, data, self.grant.expires, self.until())
                self.save(log=[at, number])

    def until(self):
        """While the job runs, try for a minute; afterwards, for as long as the grant lives."""
        return self.grant.expires if self.over.is_set() else time.time() + 60

    def attend(self):
        """Upload log, heartbeats and checkpoints until the job is over. A failure is said, and tried again later."""
        checkpoint = self.task["checkpoint"]
        last, saved = time.time(), time.time()
        while not self.over.wait(LOG_EVERY):
            try:
                self.ship_log()
                if time.time() - last >= HEARTBEAT:
                    last = time.time()
                    self.post("heartbeat", self.until(), log_bytes=self.state["log"][0])
                if checkpoint and time.time() - saved >= checkpoint["every"]:
                    saved = time.time()
                    self.push([{"glob": glob, "bundle": False} for glob in checkpoint["globs"]])
                    self.pusher.manifest(False, self.until())
            except Failed as error:
                say("while the job runs: %s" % error)

    def push(self, outputs):
        """Push globs. Return (exit code, [(path, error)], files, bytes)."""
        code, failed, files, size = 0, [], 0, 0
        os.chdir(self.workdir)
        for bundle in (False, True):
            globs = [item["glob"] for item in outputs if item["bundle"] is bundle]
            if globs:
                with self.as_user():
                    result = self.pusher.push(globs, ".", None, bundle, self.grant.expires)
                code, files, size = code or result.exit_code, files + result.files, size + result.bytes
                failed += result.failed
        return code, failed, files, size

    def finish(self):
        """Push the outputs, then the log, the manifest and the last event. Return the exit code."""
        code, failed, files, size = self.push(self.task["outputs"])
        good = self.code == 0 and not self.reason
        try:
            self.ship_log()
            self.pusher.manifest(not code, self.grant.expires)
        except Failed as error:
            code, failed = code or error.exit, failed + [("manifest and log", str(error))]
        if failed and good:
            self.reason = "%d outputs could not be uploaded; %s: %s" % ((len(failed),) + tuple(failed[0]))
        event = "interrupted" if (self.reason or "").startswith("interrupted") else "failed"
        upload = {"files": files, "bytes": size, "failed": [{"path": p, "error": e} for p, e in failed[:100]]}
        self.post(
            "succeeded" if good and not code else event,
            self.grant.expires,
            exit_code=self.code,
            signal=self.signal,
            reason=self.reason,
            upload=upload,
            agent=__version__,
            started=self.state["started"],
            finished=timestamp(time.time()),
        )
        return (code if good else 130 if event == "interrupted" else 1) or 0

    def run(self):
        """Do it all. Return the exit code; raise Failed when the store would take nothing."""
        with Wake() as wake:
            if self.state["started"]:
                self.reason = "interrupted: the VM started again while the job ran"
            else:
                try:
                    self.post("booted", time.time() + 60)
                except Failed as error:
                    if error.exit in (4, 5):
                        raise  # nothing that the job makes could be sent
                    say("booted: %s" % error)
                try:
                    self.prepare()
                    child = self.start()
                except (OSError, subprocess.SubprocessError, Failed) as error:
                    self.reason = "the job could not be started: %s" % error
                    open(self.beside("log"), "a").close()
                else:
                    self.save(started=timestamp(time.time()))
                    threads = [threading.Thread(target=self.attend), threading.Thread(target=self.announce)]
                    for thread in threads:
                        thread.daemon = True
                        thread.start()
                    self.supervise(child, wake)
                    self.over.set()
                    for thread in threads:
                        thread.join()
            self.over.set()
            return self.finish()

    def announce(self):
        """Post `started`."""
        try:
            self.post("started", self.until(), command=[encode_name(word)[:99] for word in self.task["command"]][:9])
        except Failed as error:
            say("started: %s" % error)


class Wake:
    """Wakes the main thread for a signal: `stop` says which one told us to end."""

    stop = None

    def __enter__(self):
        self.ends = os.pipe()
        for end in self.ends:
            os.set_blocking(end, False)
        self.old = signal.set_wakeup_fd(self.ends[1])
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.told)
        return self

    def __exit__(self, *_):
        signal.set_wakeup_fd(self.old)

    def told(self, number, _):
        """Take a signal that means: end."""
        self.stop = "told to end by signal %d" % number

    def wait(self, seconds):
        """Until a signal comes."""
        select.select([self.ends[0]], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(self.ends[0], 999)


def run(options, _):
    """`agent run`: options task, workdir and no-user. Return the exit code."""
    grant, path = load(options)
    with open(options.get("task") or os.path.join(os.path.dirname(os.path.abspath(path)), "task.json")) as file:
        task = json.load(file)
    user = pwd.getpwnam(task["user"]) if task["user"] and "no-user" not in options else None
    try:
        return Task(grant, path, task, options.get("workdir") or task["workdir"], user).run()
    except Failed as error:
        say(str(error))
        return error.exit
