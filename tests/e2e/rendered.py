"""What the tests of rendered jobs do with a machine that they started themselves."""

from __future__ import annotations

import json
import subprocess

from provisioner.providers.base import Phase
from tests.e2e.test_jobs import guest_leader
from tests.support import guests

RUNNING = "srv/job/running"  # a file that a job makes for `inside` to wait for


def ended(vm, patience=90):
    """Wait until a machine has powered itself off."""
    state = guests.wait_for(vm.provider, vm.instance, Phase.GONE, patience)
    assert state.reason == "powered off", vm.provider.console(vm.instance)[-2000:].decode("utf-8", "replace")


def told(provision, vm):
    """What the job's only task is said to have come to."""
    return json.loads(provision("status", vm.job, "--json").out)["tasks"][0]


def inside(vm, script):
    """Run a script as root in the guest, and return what it prints."""

    def alive():
        return vm.provider.state([vm.instance])[vm.instance.id].phase is not Phase.GONE

    enter = ["nsenter", "-t", guest_leader(vm.folder, RUNNING, alive), "-a", "sh", "-euc", script]
    return subprocess.run(enter, check=True, timeout=60, capture_output=True, text=True).stdout
