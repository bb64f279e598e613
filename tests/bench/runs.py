"""One upload, measured and checked: a peer that failed, or whose files are not on the store, has no figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.peers import Peer, Upload
from tests.bench.stores import Store, Tally
from tests.bench.works import Work

METER = Path(__file__).with_name("meter.py")
LIMIT = 900  # seconds one upload may take


@dataclass(frozen=True)
class Run:
    """What one upload cost (seconds, bytes), and `fault`: why it doesn't count, or empty."""

    work: str
    store: str
    peer: str
    round: int
    wall: float = 0.0
    user: float = 0.0
    system: float = 0.0
    peak: int = 0
    shared_once: int = 0
    processes: int = 0
    fault: str = ""

    @property
    def cpu(self) -> float:
        """CPU seconds, user and system, of the peer and all that it started."""
        return self.user + self.system

    def as_dict(self) -> dict[str, object]:
        """For the JSON report."""
        return {**asdict(self), "cpu": self.cpu}


def upload(work: Work, peer: Peer, store: Store, files: Sequence[Path], folder: Path, *, number: int) -> Run:
    """Let `peer` send `files` (below `folder`) once, in an environment without any configuration of the user's."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=folder.parent) as scratch_name:
        scratch = Path(scratch_name)
        store.begin()
        prefix = f"{work.name}/{peer.name}/{number}/"
        command = peer.command(Upload(work, folder, files, store, prefix, scratch))
        result = scratch / "result.json"
        meter = [sys.executable, "-I", "-S", METER, result, str(LIMIT), *command.argv]
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": scratch_name, "LANG": "C.UTF-8", **command.env}
        with (scratch / "said").open("w+b") as said:
            done = subprocess.Popen(meter, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=env, cwd=scratch)
            try:
                done.wait()
            except BaseException:
                done.terminate()  # the meter takes the peer with it
                done.wait()
                raise
            said.seek(0)
            words = said.read().decode("utf-8", "replace").split("\n")
        if not result.exists():
            return Run(work.name, store.name, peer.name, number, fault="the meter failed: " + " / ".join(words[-3:]))
        costs = json.loads(result.read_text())
        code = costs.pop("exit")
        tally = store.tally(prefix + "out/")
        fault = missing(work, peer, tally) if code == 0 else f"exit code {code}: " + " / ".join(words[:3])[:300]
        return Run(work.name, store.name, peer.name, number, **costs, fault=fault)


def missing(work: Work, peer: Peer, tally: Tally) -> str:
    """Say what the store lacks of an upload; empty when all arrived. Form fields and tar headers only add to bytes."""
    if tally.bytes < work.bytes:
        return f"{tally.bytes} bytes arrived of {work.bytes}"
    # The agent's bundles hold many files an object, its split files are many objects.
    if tally.objects < (1 if peer.name == "agent-bundle" else work.count):
        return f"{tally.objects} objects arrived of {work.count}"
    return ""
