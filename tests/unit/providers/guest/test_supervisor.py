"""A supervisor without a machine: what it says of one that could not be started."""

from __future__ import annotations

import asyncio

import pytest

from provisioner.providers.guest.state_dir import StateDir
from provisioner.providers.guest.supervisor import Supervisor


class Init:
    """A first process that ends with status 3, or never."""

    def __init__(self, *, ends: bool):
        self.ends = ends

    async def wait(self):
        """Wait as for a process."""
        return 3 if self.ends else await asyncio.Event().wait()


@pytest.fixture
def machine(tmp_path):
    """A machine's folder, with a record and nothing else."""
    (tmp_path / "machine.json").write_text("{}")
    return StateDir(tmp_path)


def last_line(machine, *, ends):
    """Return what the supervisor finds out, in a second at most."""
    return asyncio.run(asyncio.wait_for(Supervisor(machine)._last_log_line(Init(ends=ends)), 1))


def test_a_log_says_why_though_the_process_goes_on(machine):
    """The last line of the log is the reason; the process that wrote it need not have ended."""
    (machine.path / "log").write_text("starting\nno such device\n")
    assert last_line(machine, ends=False) == "no such device"


def test_a_process_that_printed_nothing_is_told_by_its_status(machine):
    """With an empty log, the status of the process is all there is."""
    (machine.path / "log").touch()
    assert last_line(machine, ends=True) == "its first process ended with status 3"
