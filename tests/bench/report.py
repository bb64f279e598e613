"""Medians, ratios and targets of the runs, as data and as a table."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.bench.peers import PEERS
from tests.bench.runs import Run
from tests.bench.works import MIB, Work, human

# curl hashes nothing of what it sends, and so shows what a lone form costs; the others sign their payload.
S3_CLIENTS = ("s5cmd", "rclone", "awscli")
RIVALS = (*S3_CLIENTS, "curl")


@dataclass
class Outcome:
    """What was asked, what there was to ask, and what came of it; `absent` says why a peer or a store is not here."""

    scale: str
    rounds: int
    works: Sequence[Work]
    versions: dict[str, str]
    absent: dict[str, str]
    ceiling: dict[str, float | None] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)


@dataclass(frozen=True)
class Median:
    """The medians of a peer's good runs at one work on one store; `fastest` and `slowest` are walls."""

    work: str
    store: str
    peer: str
    runs: int
    wall: float
    fastest: float
    slowest: float
    cpu: float
    peak: float
    shared_once: float


@dataclass(frozen=True)
class Target:
    """One promise: `value` is what was measured (None: could not be), `goal` the bound, `rule` is ≥ or ≤."""

    name: str
    value: float | None
    rule: str
    goal: float

    @property
    def verdict(self) -> str:
        """Met, missed, or not measured."""
        if self.value is None:
            return "not measured"
        return "met" if (self.value >= self.goal if self.rule == "≥" else self.value <= self.goal) else "missed"

    def as_dict(self) -> dict[str, object]:
        """For the JSON report."""
        return {**asdict(self), "verdict": self.verdict}


Medians = Mapping[tuple[str, str, str], Median]


def medians(runs: Iterable[Run]) -> dict[tuple[str, str, str], Median]:
    """Take the median of each figure over the runs without a fault."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        if not run.fault:
            groups.setdefault((run.work, run.store, run.peer), []).append(run)
    found = {}
    for key, group in groups.items():
        walls = [run.wall for run in group]
        cpu = statistics.median(run.cpu for run in group)
        peak = statistics.median(run.peak for run in group)
        once = statistics.median(run.shared_once for run in group)
        found[key] = Median(*key, len(group), statistics.median(walls), min(walls), max(walls), cpu, peak, once)
    return found


def ratio(found: Medians, where: tuple[str, str], figure: str, over: str, under: str) -> float | None:
    """How many times `under`'s figure `over`'s is; None when either has none."""
    top, bottom = found.get((*where, over)), found.get((*where, under))
    return getattr(top, figure) / getattr(bottom, figure) if top and bottom else None


def best_of(rivals: Sequence[str], found: Medians, work: str, store: str) -> str:
    """The peer that took the least time; empty when none has a figure."""
    timed = [(found[work, store, peer].wall, peer) for peer in rivals if (work, store, peer) in found]
    return min(timed)[1] if timed else ""


def targets(found: Medians, works: Sequence[Work], runs: Sequence[Run]) -> list[Target]:
    """Hold what was promised against what was measured; works and stores that were not asked for are left out."""
    asked = {(run.work, run.store) for run in runs}
    listed = []
    if ("small", "null") in asked:
        listed = [
            Target(
                "small: files/s, agent over s5cmd", ratio(found, ("small", "null"), "wall", "s5cmd", "agent"), "≥", 1.2
            ),
            Target(
                "small: CPU a file, agent over s5cmd", ratio(found, ("small", "null"), "cpu", "agent", "s5cmd"), "≤", 1
            ),
            Target(
                "small: files/s, agent --bundle over s5cmd",
                ratio(found, ("small", "null"), "wall", "s5cmd", "agent-bundle"),
                "≥",
                10,
            ),
        ]
    for work, store in (("large", "null"), ("large", "weed"), ("medium", "null"), ("medium", "weed")):
        if (work, store) in asked:
            for kind, rivals in (("peer", RIVALS), ("peer that is an S3 client", S3_CLIENTS)):
                best = best_of(rivals, found, work, store)
                name = f"{work}, {store}: throughput, agent over the best {kind} ({best or 'none'})"
                listed.append(Target(name, ratio(found, (work, store), "wall", best, "agent"), "≥", 1))
            if work == "large":
                spent = ratio(found, (work, store), "cpu", "agent", "awscli")
                listed.append(Target(f"{work}, {store}: CPU a GiB, agent over awscli", spent, "≤", 0.5))
    for peer, goal in (("awscli", 0.25), ("curl", 2)):
        if ("tiny", "null") in asked:
            took = ratio(found, ("tiny", "null"), "wall", "agent", peer)
            listed.append(Target(f"tiny: start to exit, agent over {peer}", took, "≤", goal))
    peaks = [run.peak for run in runs if run.peer.startswith("agent") and not run.fault]
    listed.append(Target("peak memory of the agent, any run, MiB", max(peaks) / MIB if peaks else None, "≤", 64))
    ends = [found.get((name, "null", "agent")) for name in ("flat-1", "flat-16")]
    if ("flat-16", "null") in asked:
        first, last = ends
        grown = last.peak / first.peak if first and last else None
        sizes = " over ".join(human(work.size) for work in reversed(works) if work.name.startswith("flat"))
        listed.append(Target(f"flat: peak memory, {sizes}", grown, "≤", 1.1))
    return listed


def table(found: Medians, works: Sequence[Work]) -> str:
    """The medians, one line a peer, grouped by work and store, the fastest first."""
    lines = []
    for work in works:
        for store in work.stores:
            rows = sorted((m for m in found.values() if (m.work, m.store) == (work.name, store)), key=lambda m: m.wall)
            if not rows:
                continue
            lines += ["", f"{work.name}: {work}, {store} store, median of {max(row.runs for row in rows)}"]
            heads = f"{'seconds':>24}{'min–max':>17}{'rate':>15}{'CPU s':>9}{per(work):>13}"
            lines.append(heads + f"{'peak MiB':>10}{'PSS':>7}{'× agent':>9}")
            agent = found.get((work.name, store, "agent"))
            for row in rows:
                beside = f"{row.wall / agent.wall:9.2f}" if agent else f"{'–':>9}"
                spread = f"{row.fastest:.3f}–{row.slowest:.3f}"
                cost = f"{row.cpu / units(work):.3f}"
                lines.append(
                    f"  {row.peer:13}{row.wall:9.3f}{spread:>17}{rate(work, row.wall):>15}{row.cpu:9.2f}{cost:>13}"
                    f"{row.peak / MIB:10.1f}{row.shared_once / MIB:7.0f}{beside}"
                )
    return "\n".join(lines)


def verdicts(listed: Sequence[Target]) -> str:
    """The targets, one a line."""
    lines = ["", "targets"]
    for target in listed:
        value = "–" if target.value is None else f"{target.value:.2f}"
        lines.append(f"  {target.verdict:13}{value:>8}  {target.rule} {target.goal:<5g} {target.name}")
    return "\n".join(lines)


def rate(work: Work, wall: float) -> str:
    """What a work's people look at: files a second, bytes a second, or milliseconds."""
    if work.name == "tiny":
        return f"{wall * 1000:.0f} ms"
    return f"{work.count / wall:,.0f} files/s" if work.count > 999 else f"{work.bytes / wall / MIB:,.0f} MiB/s"


def per(work: Work) -> str:
    """The heading of CPU a unit."""
    return "CPU ms/file" if work.count > 999 or work.name == "tiny" else "CPU s/GiB"


def units(work: Work) -> float:
    """How many of those units CPU seconds are divided by."""
    return work.count / 1000 if work.count > 999 or work.name == "tiny" else work.bytes / (1024 * MIB)


def machine() -> dict[str, object]:
    """What it ran on."""
    cpu = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "memory": memory,
        "kernel": platform.release(),
    }


def document(outcome: Outcome) -> dict[str, object]:
    """Everything, for JSON. Sizes in bytes, times in seconds."""
    found = medians(outcome.runs)
    return {
        "scale": outcome.scale,
        "rounds": outcome.rounds,
        "machine": machine(),
        "works": [{**asdict(work), "bytes": work.bytes} for work in outcome.works],
        "versions": outcome.versions,
        "absent": outcome.absent,
        "settings": {name: PEERS[name].settings for name in outcome.versions},
        "null_store_ceiling": outcome.ceiling,
        "targets": [target.as_dict() for target in targets(found, outcome.works, outcome.runs)],
        "medians": [asdict(median) for median in found.values()],
        "runs": [run.as_dict() for run in outcome.runs],
    }


def text(outcome: Outcome) -> str:
    """Everything, for people."""
    facts = machine()
    found = medians(outcome.runs)
    where = f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}"
    lines = [f"{outcome.scale} scale, {outcome.rounds} rounds; {where}"]
    lines += [f"  {name:13}{version}" for name, version in outcome.versions.items()]
    lines += [f"  {name:13}absent: {reason}" for name, reason in outcome.absent.items()]
    requests, stream, hashed = (
        outcome.ceiling.get(f"{what} a second") for what in ("requests", "bytes", "bytes of SHA-256")
    )
    if stream and hashed:
        shown = f"{requests:,.0f} PUTs of 4 KiB a second (wrk)" if requests else "PUTs a second unknown (wrk is absent)"
        lines.append(f"  the null store alone: {shown}, {stream / MIB:,.0f} MiB/s of one PUT")
        lines.append(f"  SHA-256 on one core: {hashed / MIB:,.0f} MiB/s")
    lines.append(table(found, outcome.works))
    faults = [run for run in outcome.runs if run.fault]
    if faults:
        lines += ["", "failed uploads, not in the figures"]
        lines += [f"  {run.work} {run.store} {run.peer}, {run.round + 1}: {run.fault}" for run in faults]
    lines.append(verdicts(targets(found, outcome.works, outcome.runs)))
    return "\n".join(lines)
