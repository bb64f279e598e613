"""Where everything lies in the bucket. The layout is the contract between launch, agent, watch and collect.

::

    PREFIX/JOB/job.json                        the operator's record of the job
    PREFIX/JOB/inputs/…                        files that the VMs download
    PREFIX/JOB/inputs/.files/SHA256            those of the job's own files that had no room in the user-data
    PREFIX/JOB/grants/TASK/ATTEMPT.json        a grant that is too large for the user-data
    PREFIX/JOB/mail/TASK/ATTEMPT/000001        renewed grants, in order, of a job that renews them
    PREFIX/JOB/launch/TOKEN                    while it is launched: each order for VMs, written before it is sent
    PREFIX/JOB/status/TASK/ATTEMPT/EVENT       what became of each task; the event's name is in the key
    PREFIX/JOB/status/TASK/ATTEMPT/log/000001  log segments
    PREFIX/JOB/status/TASK/ATTEMPT/manifest.json
    PREFIX/JOB/status/TASK/ATTEMPT/manifest/…  the manifest's earlier parts
    PREFIX/JOB/out/TASK/ATTEMPT/RELATIVE/PATH  outputs
    PREFIX/JOB/proof/.revoked                  for a moment: an upload that a revocation must not stop
    PREFIX/.agent/VERSION-SHA256.bz2           what VMs of any job download of the agent
    PREFIX/.launching/SHA256                   while a job is launched: its id, by the hash of what is launched
    PREFIX/.doctor/NAME                        for a moment: what `provision doctor` writes, to see that it can

`agent.layout` names what lies below an attempt's ``status/`` and ``out/``, since the agent writes it. What else is in
the bucket isn't ours: the functions that take a key apart return None for it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from agent.layout import LOG_FOLDER, MANIFEST

_OUTPUTS = re.compile(r"(?:(?P<prefix>.*)/)?(?P<job>[^/]+)/out/(?P<task>[^/]+)/(?P<attempt>[0-9]{1,9})/", re.DOTALL)
_MAIL = re.compile(r"(?P<task>[^/]+)/(?P<attempt>[0-9]{1,9})/(?P<number>[0-9]{6,9})")
_STATUS = re.compile(r"(?P<task>[^/]+)/(?P<attempt>[0-9]{1,9})/(?P<name>.+)", re.DOTALL)
_TOKEN = re.compile(r"(?:[0-9a-f]{32}){1,2}")


def store_root(prefix: str) -> str:
    """Everything of a store is below this. `prefix` is the store's, without a trailing slash; it may be empty."""
    return f"{prefix}/" if prefix else ""


def agent_root(prefix: str) -> str:
    """Every archive of the agent in a store is below this. `prefix` is the store's."""
    return f"{store_root(prefix)}.agent/"


def marks_root(prefix: str) -> str:
    """The marks of the launches that are not finished are below this. `prefix` is the store's."""
    return f"{store_root(prefix)}.launching/"


def doctor_root(prefix: str) -> str:
    """What `provision doctor` writes is below this, and deleted at once. `prefix` is the store's."""
    return f"{store_root(prefix)}.doctor/"


class JobKeys(NamedTuple):
    """The keys of one job. `prefix` is the store's, without a trailing slash; it may be empty."""

    prefix: str
    job: str

    @property
    def root(self) -> str:
        """Everything of the job is below this."""
        return f"{store_root(self.prefix)}{self.job}/"

    @property
    def record(self) -> str:
        """The job's own record, job.json."""
        return f"{self.root}job.json"

    @property
    def inputs_root(self) -> str:
        """Every file that was uploaded for the VMs is below this."""
        return f"{self.root}inputs/"

    @property
    def grants_root(self) -> str:
        """Every grant that is too large for the user-data is below this."""
        return f"{self.root}grants/"

    @property
    def mail_root(self) -> str:
        """Every renewed grant is below this."""
        return f"{self.root}mail/"

    @property
    def launch_root(self) -> str:
        """The orders of a launch that is not finished (`provisioner.jobs.journal`)."""
        return f"{self.root}launch/"

    @property
    def status_root(self) -> str:
        """One LIST of this tells where every task stands."""
        return f"{self.root}status/"

    @property
    def outputs_root(self) -> str:
        """Every task's outputs are below this."""
        return f"{self.root}out/"

    @property
    def proof_root(self) -> str:
        """What a revocation uploads to see that the rest of the job is not denied (`provisioner.jobs.revoke`)."""
        return f"{self.root}proof/"

    def input(self, path: str) -> str:
        """A file that the VMs download."""
        return f"{self.inputs_root}{path}"

    def offloaded(self, digest: str) -> str:
        """One of the job's own files that had no room in the user-data, by its SHA-256 (hex)."""
        return f"{self.inputs_root}.files/{digest}"

    def grant(self, task: str, attempt: int) -> str:
        """A grant that is too large for the user-data."""
        return f"{self.grants_root}{task}/{attempt}.json"

    def mail(self, task: str, attempt: int) -> str:
        """The renewed grants of an attempt."""
        return f"{self.mail_root}{task}/{attempt}/"

    def mailbox_key(self, task: str, attempt: int, number: int) -> str:
        """One of them, from 1: the grant before it names this key as its mailbox."""
        return f"{self.mail(task, attempt)}{number:06d}"

    def order(self, token: str) -> str:
        """One order of a launch, by its token."""
        return f"{self.launch_root}{token}"

    def status(self, task: str, attempt: int) -> str:
        """The prefix of the status policy."""
        return f"{self.status_root}{task}/{attempt}/"

    def event(self, task: str, attempt: int, event: str) -> str:
        """One status event."""
        return f"{self.status(task, attempt)}{event}"

    def log(self, task: str, attempt: int) -> str:
        """The log segments of an attempt."""
        return f"{self.status(task, attempt)}{LOG_FOLDER}"

    def manifest(self, task: str, attempt: int) -> str:
        """The list of what an attempt uploaded."""
        return f"{self.status(task, attempt)}{MANIFEST}"

    def outputs(self, task: str, attempt: int) -> str:
        """The prefix of the outputs policy."""
        return f"{self.outputs_root}{task}/{attempt}/"


class StatusKey(NamedTuple):
    """A key below `status/`, taken apart. `name` is an event, ``manifest.json`` or ``log/000001``."""

    task: str
    attempt: int
    name: str


def parse_status(root: str, key: str) -> StatusKey | None:
    """Take a key below `root` (`JobKeys.status_root`) apart; None for one that isn't of the layout."""
    found = _STATUS.fullmatch(key.removeprefix(root)) if key.startswith(root) else None
    return StatusKey(found["task"], int(found["attempt"]), found["name"]) if found else None


class MailKey(NamedTuple):
    """The key of a renewed grant (`JobKeys.mailbox_key`), taken apart. `number` counts from 1."""

    task: str
    attempt: int
    number: int


def parse_mail(root: str, key: str) -> MailKey | None:
    """Take a key below `root` (`JobKeys.mail_root`) apart; None for one that isn't of the layout."""
    found = _MAIL.fullmatch(key.removeprefix(root)) if key.startswith(root) else None
    return MailKey(found["task"], int(found["attempt"]), int(found["number"])) if found else None


def parse_order(root: str, key: str) -> str | None:
    """Return the token of a key below `root` (`JobKeys.launch_root`); None for one that isn't of the layout."""
    token = key.removeprefix(root)
    return token if key.startswith(root) and _TOKEN.fullmatch(token) else None


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
