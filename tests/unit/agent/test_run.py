"""`agent run`: in which order a job's last words go out, and what is on the disk before a word of it counts."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.broken_store import broken_store
from tests.support.grants import ROOT, fake_grant, write_grant

SCRIPT = "dd if=/dev/zero of=out1 bs=1M count=3; echo 1 >out2; echo ready; exec sleep 60"


DENIED = (403, b"<Error><Code>AccessDenied</Code><Message>not you</Message></Error>")
RUN = "from agent.__main__ import main; raise SystemExit(main())"


def write_task(folder, server, **differs):
    """Write grant and document of a task that makes `out1`, except for what `differs`. Return its environment."""
    path = write_grant(folder, fake_grant(server.url, expires=differs.pop("expires", 3600)))
    task = {"command": ["sh", "-c", "echo 1 >out1"], "env": {}, "user": None, "timeout": 60, "grace": 5}
    task.update(workdir=str(folder / "work"), outputs=[{"glob": "out*", "bundle": False}])
    (folder / "task.json").write_text(json.dumps({**task, **differs}))
    return {**os.environ, "FREEPOST_GRANT": str(path), "PYTHONPATH": str(ROOT)}


def run_task(folder, server, *, program=RUN, **differs):
    """Run such a task to its end. Return the finished process and the task's last event."""
    done = subprocess.run(
        [sys.executable, "-c", program, "run"],
        env=write_task(folder, server, **differs),
        check=False,
        timeout=60,
        stderr=subprocess.PIPE,
        text=True,
    )
    ends = [server.objects.get(f"job/status/0/1/{name}") for name in ("succeeded", "failed", "interrupted")]
    return done, next((json.loads(each) for each in ends if each), None)


@pytest.mark.parametrize("interrupted", [True, False])
def test_what_tells_most_goes_first_when_time_may_be_short(tmp_path, interrupted):
    """All of the log precedes the outputs; of those, small files go first once the job is interrupted."""
    with broken_store() as server:
        script = SCRIPT if interrupted else SCRIPT.replace("exec sleep 60", "")
        process = subprocess.Popen(
            [sys.executable, "-m", "agent", "run"],
            env=write_task(tmp_path, server, command=["sh", "-c", script]),
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 20
            while "job/status/0/1/started" not in server.objects or b"ready" not in (tmp_path / "log").read_bytes():
                assert time.monotonic() < deadline
                time.sleep(0.02)  # the job's own progress: nobody tells of it
            if interrupted:
                process.send_signal(signal.SIGTERM)
            assert process.wait(30) == (130 if interrupted else 0)
        finally:
            process.kill()
            process.wait()
    names = [key.removeprefix("job/out/0/1/").removeprefix("job/status/0/1/") for key in server.objects]
    logs = [at for at, name in enumerate(names) if name.startswith("log/")]
    assert logs
    assert max(logs) < min(names.index("out1"), names.index("out2"))
    if interrupted:
        assert names.index("out2") < names.index("out1")
        assert names[-2:] == ["manifest.json", "interrupted"]
    else:
        assert names[-2:] == ["manifest.json", "succeeded"]


# An agent that, in place of a sync, writes down what it would have put on the disk.
WATCHED = """
import os
def sync():
    with open("state") as state, open("synced", "a") as synced:
        text, made = state.read(), os.path.exists("work/out1") and os.path.getsize("work/out1")
        synced.write("%s %s %s\\n" % ('"started": "' in text, "status" in text, made))
os.sync = sync
"""


def test_nothing_is_said_to_have_happened_that_a_power_cut_can_undo(tmp_path):
    """All is on the disk once the job runs, for its grant is needed after a cut; and again before its end is noted."""
    with broken_store() as server:
        # It makes its output when the first sync has been, so that the order is not left to chance.
        script = "until [ -s ../synced ]; do sleep 0.02; done; echo 1 >out1"
        done, _ = run_task(tmp_path, server, program=WATCHED + RUN, command=["sh", "-c", script])
    assert done.returncode == 0
    assert (tmp_path / "synced").read_text().splitlines() == ["True False False", "True False 2"]
    assert "status" in json.loads((tmp_path / "state").read_text())


def test_a_job_that_succeeded_stays_so(tmp_path):
    """A system that goes down while outputs are sent does not make a failure of it: the last event is `succeeded`."""
    with broken_store() as server:
        terminated = "import os, signal; os.sync = lambda: 'status' in open('state').read() or None\n"
        terminated += "from agent import task; finish = task.Task.finish\n"
        terminated += "task.Task.finish = lambda self: os.kill(os.getpid(), signal.SIGTERM) or finish(self)\n"
        done, _ = run_task(tmp_path, server, program=terminated + RUN)
    assert done.returncode == 0
    assert "job/status/0/1/succeeded" in server.objects
    assert "job/status/0/1/interrupted" not in server.objects


def test_when_the_grant_ends_is_for_the_store_to_say(tmp_path):
    """A grant that ends by the VM's own clock while the job runs is used all the same: that clock may be ahead."""
    with broken_store() as server:
        script = f"until [ $(date +%s) -gt {int(time.time()) + 3} ]; do sleep 0.1; done; echo 1 >out1"
        done, _ = run_task(tmp_path, server, expires=2, command=["sh", "-c", script])
    assert (done.returncode, done.stderr) == (0, "")
    assert server.objects["job/out/0/1/out1"] == b"1\n"
    assert json.loads(server.objects["job/status/0/1/succeeded"])["upload"]["failed"] == []


def test_a_command_that_is_not_there(tmp_path):
    """The last event says so, and what keeps the command from starting."""
    with broken_store() as server:
        done, last = run_task(tmp_path, server, command=["/nowhere/to-be-found"])
    assert done.returncode == 1
    assert (last["event"], last["started"]) == ("failed", None)
    assert last["reason"].startswith("it could not be started: [Errno 2] No such file or directory")


def test_a_job_runs_into_its_timeout(tmp_path):
    """It is ended, its outputs are stored, and the last event says after how long."""
    with broken_store() as server:
        command = ["sh", "-c", "echo 1 >out1; exec sleep 60"]
        done, last = run_task(tmp_path, server, command=command, timeout=1)
    assert done.returncode == 1
    assert (last["event"], last["reason"]) == ("failed", "it ran into its timeout of 1 s")
    assert last["exit_code"] == -signal.SIGTERM
    assert server.objects["job/out/0/1/out1"] == b"1\n"


def test_nothing_runs_whose_results_would_be_refused(tmp_path):
    """A store that refuses the first event would refuse all else: the job isn't started."""
    with broken_store() as server:
        server.always = DENIED
        done, last = run_task(tmp_path, server)
    assert (done.returncode, last) == (5, None)
    assert "AccessDenied" in done.stderr
    assert not (tmp_path / "work").exists()


def test_an_event_that_is_refused_meanwhile_stops_nothing(tmp_path):
    """What can't be told while the job runs is said on the console; the job's results count."""
    with broken_store() as server:
        server.faults.extend((None, DENIED))
        done, last = run_task(tmp_path, server, command=["sh", "-c", "echo 1 >out1; sleep 1"])
    assert (done.returncode, last["event"]) == (0, "succeeded")
    assert "AccessDenied" in done.stderr
    assert server.objects["job/out/0/1/out1"] == b"1\n"


def test_a_manifest_that_is_refused_is_no_success(tmp_path):
    """Without it nothing can be collected: the task failed, and its last event says what was refused."""
    with broken_store() as server:
        faults = iter([DENIED])  # for the request after that which stored the output
        server.next_fault = lambda _: next(faults, None) if "job/out/0/1/out1" in server.objects else None
        done, last = run_task(tmp_path, server)
    assert "job/status/0/1/manifest.json" not in server.objects
    assert (last["event"], last["exit_code"]) == ("failed", 0)
    assert last["reason"].startswith("1 outputs failed; manifest and log: ")
    assert done.returncode == 5  # the job itself did well
