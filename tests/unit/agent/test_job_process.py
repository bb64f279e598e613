"""How a job that runs as a user of its own is ended: by its scope, whoever its processes have become."""

import signal
from types import SimpleNamespace

import pytest

from agent import job_process

USER = SimpleNamespace(pw_name="job", pw_uid=1001)


@pytest.fixture
def calls(monkeypatch):
    """The commands that were run, in place of systemd."""
    made = []
    monkeypatch.setattr(job_process.subprocess, "call", made.append)
    return made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_scope_of_a_user_gets_the_signal(calls, monkeypatch, number):
    """Every signal goes through systemd, SIGKILL only on a kernel that has no file for it."""

    def missing(path, mode):
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(job_process, "open", missing, raising=False)
    job_process.signal_job(None, USER, number)
    assert calls == [["systemctl", "-q", "kill", f"-s{number:d}", "freepost-job.scope"]]


def test_the_kernel_kills_the_whole_scope(calls, monkeypatch, tmp_path):
    """Where the kernel has a file for it, it kills all of the scope at once, and systemd isn't asked."""
    asked = []

    def instead(path, mode):
        asked.append(path)
        return (tmp_path / "kill").open(mode)

    monkeypatch.setattr(job_process, "open", instead, raising=False)
    job_process.signal_job(None, USER, signal.SIGKILL)
    assert asked == ["/sys/fs/cgroup/system.slice/freepost-job.scope/cgroup.kill"]
    assert (tmp_path / "kill").read_text() == "1"
    assert calls == []


def test_a_job_that_has_gone(calls):
    """A signal to a process group that is no more is no error."""
    job_process.signal_job(SimpleNamespace(pid=2**22), None, signal.SIGTERM)
    assert calls == []
