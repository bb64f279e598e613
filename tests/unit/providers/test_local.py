"""The local provider: what an agent leaves running ends with it, as in a VM."""

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from provisioner.process import identify, read_proc_file
from provisioner.providers import local
from provisioner.providers.base import Phase
from tests.support import guests

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at other processes in /proc")


@pytest.fixture
def left(provision, state_folder, tmp_path):
    """A job whose agent was killed: its id, its folder, and who tells what it left running, started in three ways."""
    mark = str(random.randrange(10**8, 10**9))
    command = f"setsid sleep {mark} & env -i sleep {mark} & sleep {mark}"
    path = tmp_path / "job.yaml"
    path.write_text(f"name: left\nrun: {{command: '{command}'}}\n")
    before = set((state_folder / "local").glob("*"))
    launched = provision.launch(path, "--json")
    assert launched.code == 0, launched.err
    job = next(line["job"] for line in map(json.loads, launched.out.splitlines()) if line["event"] == "job")
    (home,) = set((state_folder / "local").glob("*")) - before
    # The job's shell has the number in its command line as well.
    pids = guests.wait_until(lambda: len(found := sleepers(mark)) == 4 and found, 30)
    try:
        agent = identify(int((home / "pid").read_text()))
        os.kill(agent.pid, signal.SIGKILL)
        assert agent.ended(within=10)
        assert sleepers(mark) == pids
        yield job, home, lambda: sleepers(mark)
    finally:
        for pid in sleepers(mark):
            os.kill(pid, signal.SIGKILL)


def sleepers(mark):
    """The pids of all processes that have this number in their command line."""
    found = []
    for pid in (int(path.name) for path in Path("/proc").glob("[0-9]*")):
        try:
            if mark.encode() in read_proc_file(pid, "cmdline"):
                found.append(pid)
        except OSError:  # gone
            continue
    return sorted(found)


@pytest.mark.parametrize("command", ["terminate", "status"])
def test_a_killed_agents_job_ends(provision, left, command):
    """SIGKILL of the agent leaves the job running; terminate, and whoever asks for its state, ends all of it."""
    job, _, running = left
    assert provision(command, job).code == 0
    assert running() == []
    assert provision("rm", job).code == 0


def test_the_operators_own_processes_are_left_alone(provision, left, monkeypatch):
    """A program that the operator runs in a launch's folder, or with a path to it at hand, is none of the job's."""
    job, home, running = left
    monkeypatch.chdir(home / "root")
    ours = os.spawnve(os.P_NOWAIT, "/bin/sleep", ["sleep", "1000"], {"PWD": str(home / "root"), "OLDPWD": str(home)})
    try:
        assert provision("terminate", job).code == 0
        assert running() == []
        assert identify(ours) is not None
    finally:
        os.kill(ours, signal.SIGKILL)
        os.waitpid(ours, 0)


def test_an_agent_that_has_not_told_its_pid_yet_is_terminated(tmp_path, monkeypatch):
    """Terminated right after its launch, an agent is asked as soon as its pid is known, not killed after a while."""
    provider = local.LocalProvider(tmp_path)
    real, first = local._read_pid, iter([None])
    monkeypatch.setattr(local, "_read_pid", lambda folder: next(first, real(folder)))
    began = time.monotonic()
    instances = provider.launch(guests.order(guests.KINDS["local"].user_data("exec sleep 600"), "a0a0"))
    provider.terminate(instances)
    assert next(first, "asked") == "asked"
    assert time.monotonic() - began < local.STOP_SECONDS / 2
    assert provider.state(instances)["a0a0"].phase is Phase.GONE
    assert not list(tmp_path.iterdir())


def test_a_state_folder_may_be_relative(tmp_path, monkeypatch):
    """The agent runs in another directory, and finds its files all the same."""
    monkeypatch.chdir(tmp_path)
    provider = local.LocalProvider(Path("state"))
    instances = provider.launch(guests.order(guests.KINDS["local"].user_data("echo here"), "b0b0"))
    guests.wait_for(provider, instances[0], Phase.GONE, 30)
    assert provider.console(instances[0]) == b"here\n"


def test_each_launch_unpacks_an_agent_of_its_own(provision, opened, state_folder, tmp_path):
    """Two jobs that need different parts of the agent don't find each other's: it lies below the launch's folder."""
    job = tmp_path / "job.yaml"
    job.write_text("name: own\nrun: {command: 'true', timeout: 1m}\n")
    done = provision.launch(job, "--wait")
    assert done.code == 0, done.err
    name = re.search("^job (.*)", done.err, re.MULTILINE)[1]
    token = json.loads(opened.get(f"p/{name}/job.json"))["instances"][0]["id"]
    assert (state_folder / "local" / token / "root/run/freepost-agent/agent/push.py").exists()
