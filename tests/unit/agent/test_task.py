"""`agent run` where a whole machine isn't needed to see it: what keeps a job's user from the metadata service."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace

import pytest

from agent import job_process, task

USER = SimpleNamespace(pw_uid=1000, pw_gid=1000, pw_name="job", pw_dir="/home/job")


@pytest.fixture
def begun(monkeypatch, tmp_path):
    """Start a job, but for its processes: a function of whether there is IPv6; it returns the commands run first."""

    def begin(there, check_call=lambda _: 0):
        asked = []
        monkeypatch.setattr(job_process.os.path, "exists", lambda path: there or path != "/proc/net/if_inet6")
        monkeypatch.setattr(
            job_process.subprocess, "check_call", lambda words: asked.append(words) or check_call(words)
        )
        monkeypatch.setattr(job_process.subprocess, "Popen", lambda command, **_: asked.append(command))
        monkeypatch.chdir(tmp_path)
        job = {"command": ["true"], "env": {}, "workdir": str(tmp_path)}
        job_process.start(job, USER, ("j", "0", 1), str(tmp_path / "grant.json"))
        return asked

    return begin


@pytest.mark.parametrize("there", [True, False])
def test_no_rule_for_a_protocol_that_is_not_there(begun, there):
    """A VM without IPv6 reaches nothing over it, and needs no rule; one with it gets both."""
    *rules, command = begun(there)
    assert [words[:4] for words in rules] == [["ip", family, "rule", "add"] for family in ("-4", "-6")[: 1 + there]]
    assert all("1000-4294967294" in words and words[-1] == "prohibit" for words in rules)
    assert command[0] == "systemd-run"


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_a_rule_that_fails_stops_the_start(begun, family):
    """No command is run once a rule could not be made."""

    def fail(words):
        if family in words:
            raise subprocess.CalledProcessError(2, words)

    with pytest.raises(subprocess.CalledProcessError, match=family):
        begun(there=True, check_call=fail)


def test_the_state_takes_no_room(tmp_path, monkeypatch):
    """What is remembered is rewritten in place, as JSON of one sector, and read back after a restart."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(task, "Pusher", lambda *_, **__: SimpleNamespace())
    document = {"workdir": "/srv/job", "user": None}
    first = task.Task(None, str(tmp_path / "grant.json"), document)
    first.save(started="2026-11-23T21:00:00Z", reason="interrupted: the VM restarted", log=[1 << 40, 999_999])
    assert (tmp_path / "state").stat().st_size == len((tmp_path / "state").read_bytes()) == 511
    first.save(status=-15, reason="it ran into its timeout of 604800 s")
    again = task.Task(None, str(tmp_path / "grant.json"), document)
    assert again.state == json.loads((tmp_path / "state").read_text()) == first.state
    assert again.state["status"] == -15
