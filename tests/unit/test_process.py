"""A process is known by pid and start time."""

import os
import signal
import subprocess
import sys

import pytest

from provisioner import process
from provisioner.errors import MissingDependency
from provisioner.process import Process, identify


@pytest.fixture
def child():
    """A Python that waits for its standard input to end."""
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
