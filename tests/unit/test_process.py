"""A process is known by pid and start time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from provisioner import process
from provisioner.errors import MissingDependency
from provisioner.process import Process, identify


@pytest.fixture(params=[True, False], ids=["pidfd", "no pidfd"])
def child(request, monkeypatch):
    """A Python that waits for its standard input to end, on a system with pidfds and on one without, as macOS."""
    if not request.param:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_live_process_is_identified(child):
    """A process equals itself, and is alive."""
    found = identify(child.pid)
    assert found == identify(child.pid)
    assert found.alive()
    assert not found.ended(within=0.01)


def test_a_pid_of_someone_else_is_not_signalled(child):
    """A process with the right pid and another start time counts as gone, and a kill doesn't reach who has the pid."""
    stranger = Process(child.pid, "another start time")
    assert not stranger.alive()
    stranger.kill()
    assert stranger.ended(within=0)
    assert child.poll() is None


def test_a_kill_is_waited_for(child):
    """After a kill `ended` returns as soon as the process is gone, reaped or not."""
    found = identify(child.pid)
    found.kill()
    assert found.ended(within=10)
    assert not found.alive()
    assert identify(child.pid) is None  # a zombie still, nobody has waited for it
    assert child.wait() == -signal.SIGKILL
    found.kill()  # of nobody: nothing happens
    assert found.ended(within=0)


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**31, 2**70])
def test_a_pid_that_cannot_be_is_gone(pid):
    """What a damaged file says about a pid is never an error, and never this process or its group."""
    assert not Process(pid, "x").alive()
    Process(pid, "x").kill()
    assert identify(os.getpid()).alive()


def test_neither_proc_nor_ps_is_one_sentence(monkeypatch):
    """Where there is nothing to look at a process with, the error names what to install."""
    monkeypatch.setattr(os, "defpath", "/nowhere")
    with pytest.raises(MissingDependency, match="program ps") as caught:
        process._from_ps(os.getpid())
    assert "procps" in caught.value.hint


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at another process in /proc")
def test_a_process_between_two_programs_is_seen(tmp_path):
    """A process that only ever runs execve is found by its environment and its arguments each time it is looked at."""
    again = tmp_path / "again.sh"
    again.write_text(f"exec sh {again}\n")
    running = subprocess.Popen(["/bin/sh", again], env={"MARK": "kept", "PATH": os.defpath})
    try:
        looks = range(2000)  # one in twenty came while there was nothing to be seen
        assert all(b"MARK=kept" in process.read_proc_file(running.pid, "environ") for _ in looks)
        assert all(b"again.sh" in process.read_proc_file(running.pid, "cmdline") for _ in looks)
    finally:
        running.kill()
        running.wait()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at another process in /proc")
def test_a_process_that_has_ended_is_no_wait(child):
    """A zombie shows no environment; one that was waited for is an error at once."""
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(OSError, match=r"No such process|Permission denied"):  # Linux lets root alone look
        process.read_proc_file(child.pid, "environ")
    child.wait()
    with pytest.raises(FileNotFoundError):
        process.read_proc_file(child.pid, "environ")
