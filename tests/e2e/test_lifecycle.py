"""What a rendered job lives through on a whole machine: no fence, no room, no end of forks, reboot, power cut, silence.

The machine is started here, not by `launch`, so that it can be cut off, booted again, and given a fault of its own.
"""

from __future__ import annotations

import base64
import time

import pytest

from tests.e2e.rendered import RUNNING, ended, inside, told
from tests.e2e.test_jobs import guest_leader
from tests.support import guests

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

DEADLINE = 60  # seconds: the least that the dead-man timer gives a boot


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_no_job_without_its_fence(provision, machine, family):
    """A job isn't started when its user can't be kept from the metadata service; the last event says so."""
    fault = f'#!/bin/sh\ncase $* in "{family} rule"*) exit 2;; esac\nexec /bin/ip "$@"\n'
    encoded = base64.b64encode(fault.encode()).decode()
    plant = f"echo {encoded} | base64 -d >/usr/local/sbin/ip; chmod 755 /usr/local/sbin/ip"
    vm = machine("name: fence\nrun: {command: echo ran, timeout: 1m}\n", plant)
    ended(vm)
    last = told(provision, vm)
    assert (last["status"], last["exit_code"]) == ("failed", None)
    assert last["reason"].startswith("it could not be started: ")
    assert ("fd00:ec2::254" if family == "-6" else "169.254.169.254") in last["reason"]
    assert provision("logs", vm.job).out == ""


def test_a_fork_bomb(provision, machine, tmp_path):
    """A job whose processes multiply without end runs into its timeout, is killed whole, and its log comes home.

    They have the machine's only processor, which the job counts, all to themselves but for the agent.
    """
    counted = "import os\nprint(len(os.sched_getaffinity(0)), flush=True)\n"
    bomb = counted + "while True:\n  try:\n    os.fork()\n  except OSError:\n    pass\n"
    (tmp_path / "bomb.py").write_text(bomb)
    vm = machine("name: bomb\nrun: {command: python3 bomb.py, files: [bomb.py], timeout: 10s, grace: 2s}\n")
    ended(vm)
    last = told(provision, vm)
    assert last["status"] == "failed", last
    assert last["reason"] == "it ran into its timeout of 10 s"
    assert set(provision("logs", vm.job).out.split()) == {"1"}


def test_a_full_disk(provision, machine, tmp_path):
    """A job that fills its disk ends with its true exit code, its log, and what it made before."""
    text = """
name: full
run:
  command: |
    mkdir out; echo made >out/file; echo begun
    cat /dev/zero >zeros
    for n in 1 2 3 4 5 6 7 8 9; do echo $n >"out/$n"; done
    echo "still here"
    exit 3
  timeout: 2m
outputs: ['out/**']
"""
    vm = machine(text, disk="1GiB")
    ended(vm)
    last = told(provision, vm)
    assert (last["status"], last["exit_code"], last["reason"]) == ("failed", 3, None)
    assert last["upload"]["failed"] == []
    said = provision("logs", vm.job).out
    assert said.startswith("begun\n")
    assert "No space left on device" in said
    provision("collect", vm.job, tmp_path / "r")
    assert (tmp_path / "r/out/file").read_text() == "made\n"


def test_a_reboot(provision, machine, tmp_path):
    """A VM that reboots in mid-job doesn't run the job again: what it had made comes home, and it is interrupted."""
    text = """
name: reboot
run: {command: 'echo ran; mkdir out; echo made >out/file; touch running; exec sleep 300', timeout: 10m, grace: 2s}
outputs: [out/**]
"""
    vm = machine(text)
    inside(vm, "systemctl reboot")
    ended(vm)
    last = told(provision, vm)
    assert last["status"] == "interrupted"
    assert last["reason"].startswith("interrupted")
    assert provision("logs", vm.job).out == "ran\n"
    provision("collect", vm.job, tmp_path / "r")
    assert (tmp_path / "r/out/file").read_text() == "made\n"


FILES = 400
WORKERS = 32  # files that may be on their way at once


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("on", "moment"),
    [("machine", "job"), ("machine", "upload"), pytest.param("qemu", "upload", marks=pytest.mark.vm)],
)
def test_a_power_cut(provision, machine, tmp_path, on, moment):
    """Power goes while the job runs or its outputs are sent; booted again, nothing is lost and nothing doubled.

    A VM loses what its own kernel had not written; a machine's kernel is the host's, which lives on.
    """
    patience = guests.KINDS[on].patience
    size = 524288 if on == "machine" else 16384  # an emulated processor is slow at making noise
    text = f"""
name: cut
run:
  command: |
    mkdir out; for n in $(seq {FILES}); do head -c {size} /dev/urandom >out/$n; done; echo made; touch running
    {"exec sleep 300" if moment == "job" else "true"}
  timeout: 10m
vm: {{boot_budget: 15m}}
outputs: [out/**]
"""
    vm = machine(text, on=on)
    root = f"{vm.job}/out/"

    def stored():
        return {entry.key: entry.modified for entry in vm.store.list(root)}

    if moment == "job":
        guest_leader(vm.folder, RUNNING)
    else:
        guests.wait_until(lambda: len(stored()) > FILES / 10, patience)
    vm.provider.cut_power([vm.instance])
    before = stored()
    assert len(before) < FILES, "the power cut came too late to test anything"
    assert told(provision, vm)["status"] in {"started", "heartbeat"}
    time.sleep(1)  # what is stored from now on has another time, in whole seconds
    vm.provider.boot_again(vm.instance)
    ended(vm, patience)
    last, after = told(provision, vm), stored()
    if moment == "job":
        assert (last["status"], last["reason"]) == ("interrupted", "interrupted: the VM restarted")
    else:
        assert (last["status"], last["exit_code"]) == ("succeeded", 0)
    assert len(after) == FILES
    again = [key for key, when in before.items() if after[key] != when]
    assert len(again) <= WORKERS, "more was sent twice than was on its way"
    assert provision("logs", vm.job).out == "made\n"
    provision("collect", vm.job, tmp_path / "r")
    assert {path.name: path.stat().st_size for path in (tmp_path / "r/out").iterdir()} == {
        str(number): size for number in range(1, FILES + 1)
    }


def test_the_dead_man_timer(provision, machine):
    """A VM whose agent never starts powers itself off at its deadline, which it counts from its first boot command."""
    text = "name: silent\nrun: {command: 'true', timeout: 1s, grace: 0s}\nvm: {boot_budget: 1s}\n"
    began = time.monotonic()
    vm = machine(text, runs=False)
    ended(vm, DEADLINE + 60)
    assert DEADLINE <= time.monotonic() - began < DEADLINE + 45
    assert told(provision, vm)["status"] == "launched"
