"""The harness itself: what counts as an upload, what a target's verdict is, and that the meter measures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import report, runs, works
from tests.bench.peers import PEERS
from tests.bench.stores import Absent, Tally, null_store

SMALL = works.FULL[0]


def run(peer: str, wall: float, *, cpu: float = 1, fault: str = "") -> runs.Run:
    """A run of the work "small"."""
    return runs.Run("small", "null", peer, 0, wall=wall, user=cpu, peak=20 << 20, fault=fault)


def test_a_failed_upload_is_in_no_median():
    """A peer that failed quickly is not a quick peer."""
    found = report.medians([run("s5cmd", 0.1, fault="exit code 1"), run("s5cmd", 4), run("s5cmd", 2), run("s5cmd", 3)])
    assert found["small", "null", "s5cmd"].wall == 3


def test_targets_without_figures_are_not_measured():
    """An absent peer leaves its target without a verdict, never met."""
    done = [run("agent", 1)]
    verdicts = {item.name: item.verdict for item in report.targets(report.medians(done), [SMALL], done)}
    assert verdicts["small: files/s, agent over s5cmd"] == "not measured"
    assert verdicts["peak memory of the agent, any run, MiB"] == "met"


@pytest.mark.parametrize(("wall", "verdict"), [(1.0, "met"), (2.0, "missed")])
def test_a_target_is_held_against_the_ratio_of_medians(wall: float, verdict: str):
    """The agent must take at most 1/1.2 of s5cmd's time."""
    done = [run("agent", wall), run("s5cmd", 1.5)]
    verdicts = {item.name: item.verdict for item in report.targets(report.medians(done), [SMALL], done)}
    assert verdicts["small: files/s, agent over s5cmd"] == verdict


@pytest.mark.parametrize(
    ("peer", "tally", "fault"),
    [
        ("s5cmd", Tally(10_000, 0, SMALL.bytes), ""),
        ("s5cmd", Tally(9_999, 0, SMALL.bytes), "9999 objects arrived of 10000"),
        ("s5cmd", Tally(10_000, 0, SMALL.bytes - 1), f"{SMALL.bytes - 1} bytes arrived of {SMALL.bytes}"),
        ("agent-bundle", Tally(12, 0, SMALL.bytes + 1024), ""),
    ],
)
def test_an_upload_counts_when_everything_arrived(peer: str, tally: Tally, fault: str):
    """Objects and bytes are held against the work; bundles hold many files an object."""
    assert runs.missing(SMALL, PEERS[peer], tally) == fault


def test_the_meter_tells_exit_code_time_and_memory(tmp_path: Path):
    """A command of two processes is measured as both, and its exit code kept."""
    hold = "import time; data = bytearray(32 << 20); time.sleep(0.5)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}]); sys.exit(3)"
    subprocess.run(
        [sys.executable, "-I", "-S", runs.METER, tmp_path / "r", "60", sys.executable, "-c", child], check=True
    )
    costs = json.loads((tmp_path / "r").read_text())
    assert costs["exit"] == 3
    assert costs["wall"] >= 0.5
    assert costs["processes"] == 2
    assert costs["peak"] > costs["shared_once"] > 32 << 20


def test_the_meter_kills_what_takes_too_long(tmp_path: Path):
    """A hung peer ends after the limit, by a signal."""
    subprocess.run([sys.executable, "-I", "-S", runs.METER, tmp_path / "r", "0.2", "sleep", "60"], check=True)
    assert json.loads((tmp_path / "r").read_text())["exit"] == -9


def test_the_null_store_counts_what_curl_sends(tmp_path: Path):
    """One form per file arrives at the null store, and it says so."""
    work = works.Work("small", 3, 4096)
    works.make(work, tmp_path / "files")
    try:
        with null_store(tmp_path / "store") as store:
            home = tmp_path / "files"
            done = runs.upload(work, PEERS["curl"], store, works.files(home), home, number=0)
    except Absent as reason:
        pytest.skip(str(reason))
    assert not done.fault
    assert done.wall > 0
