"""Where everything lies in the bucket. The layout is the contract between launch, agent, watch and collect.

::

    PREFIX/JOB/job.json                        the operator's record of the job
    PREFIX/JOB/inputs/…                        files the VMs pull
    PREFIX/JOB/grants/TASK/ATTEMPT.json        a grant that is too large for the user-data
    PREFIX/JOB/mail/TASK/ATTEMPT/000001        renewed grants, in order, of a job that renews them
    PREFIX/JOB/launch/TOKEN                    while it is launched: each order for VMs, written before it is sent
    PREFIX/JOB/status/TASK/ATTEMPT/EVENT       what became of each task; the event's name is in the key
    PREFIX/JOB/status/TASK/ATTEMPT/log/000001  log segments
    PREFIX/JOB/status/TASK/ATTEMPT/manifest.json
    PREFIX/JOB/out/TASK/ATTEMPT/RELATIVE/PATH  outputs
    PREFIX/.agent/VERSION-SHA256.bz2           what VMs of any job fetch of the agent
"""

from __future__ import annotations

import re
from typing import NamedTuple

from agent.layout import MANIFEST

_OUTPUTS = re.compile(r"(?:(?P<prefix>.*)/)?(?P<job>[^/]+)/out/(?P<task>[^/]+)/(?P<attempt>[0-9]{1,9})/", re.DOTALL)


def agent_root(prefix: str) -> str:
    """Every archive of the agent in a store is below this. `prefix` is the store's."""
    return JobKeys(prefix, ".agent").root


class JobKeys(NamedTuple):
    """The keys of one job. `prefix` is the store's, without a trailing slash; it may be empty."""

    prefix: str
    job: str

    @property
    def root(self) -> str:
        """Everything of the job is below this."""
        return f"{self.prefix}/{self.job}/" if self.prefix else f"{self.job}/"

    @property
    def record(self) -> str:
        """The job's own record, job.json."""
        return f"{self.root}job.json"

    @property
    def status_root(self) -> str:
        """One LIST of this tells where every task stands."""
        return f"{self.root}status/"

    @property
    def launch_root(self) -> str:
        """The orders of a launch that is not finished (`provisioner.jobs.orders`)."""
        return f"{self.root}launch/"

    @property
    def mail_root(self) -> str:
        """Every renewed grant is below this."""
        return f"{self.root}mail/"

    def mail(self, task: str, attempt: int) -> str:
        """The renewed grants of an attempt."""
        return f"{self.mail_root}{task}/{attempt}/"

    def mailbox_key(self, task: str, attempt: int, number: int) -> str:
        """One of them, from 1: the grant before it names this key as its mailbox."""
        return f"{self.mail(task, attempt)}{number:06d}"

    def input(self, path: str) -> str:
        """A file that the VMs pull."""
        return f"{self.root}inputs/{path}"

    def grant(self, task: str, attempt: int) -> str:
        """A grant that is too large for the user-data."""
        return f"{self.root}grants/{task}/{attempt}.json"

    def status(self, task: str, attempt: int) -> str:
        """The prefix of the status policy."""
        return f"{self.root}status/{task}/{attempt}/"

    def outputs(self, task: str, attempt: int) -> str:
        """The prefix of the outputs policy."""
        return f"{self.root}out/{task}/{attempt}/"

    def event(self, task: str, attempt: int, event: str) -> str:
        """One status event."""
        return f"{self.status(task, attempt)}{event}"

    def manifest(self, task: str, attempt: int) -> str:
        """The list of what an attempt uploaded."""
        return f"{self.status(task, attempt)}{MANIFEST}"


class StatusKey(NamedTuple):
    """A key below `status/`, taken apart. `name` is an event, ``manifest.json`` or ``log/000001``."""

    task: str
    attempt: int
    name: str


def parse_status(root: str, key: str) -> StatusKey | None:
    """Take a key below `root` (`JobKeys.status_root`) apart; None for one that isn't of the layout."""
    task, _, rest = key.removeprefix(root).partition("/")
    attempt, _, name = rest.partition("/")
    if not key.startswith(root) or not task or not name or not attempt.isdecimal():
        return None
    return StatusKey(task, int(attempt), name)


class OutputsPrefix(NamedTuple):
    """The prefix of an attempt's outputs (`JobKeys.outputs`), taken apart."""

    keys: JobKeys
    task: str
    attempt: int


def parse_outputs(prefix: str) -> OutputsPrefix | None:
    """Take the prefix of an attempt's outputs apart; None for one that isn't of the layout."""
    found = _OUTPUTS.fullmatch(prefix)
    if found is None:
        return None
    return OutputsPrefix(JobKeys(found["prefix"] or "", found["job"]), found["task"], int(found["attempt"]))
