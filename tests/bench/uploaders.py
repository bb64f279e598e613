"""Compare `agent push` with s5cmd, rclone, awscli and curl: ``python -m tests.bench.uploaders [--scale small]``.

Everything runs on loopback: a null store (nginx that reads and forgets) and the embedded store. Each round lets every
peer send the same files once, in an order that turns by one from round to round. README.md in this folder says what
is measured how, and what each peer was told. It leaves no process, port or file behind.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench import ceiling, report, runs, works
from tests.bench.peers import PEERS, Peer
from tests.bench.stores import STORES, Absent, Store
from tests.bench.works import GIB, MIB, SCALES, Work

MEMORY = Path("/dev/shm")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.uploaders", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each peer does each work (default 5)")
    parser.add_argument("--scale", choices=SCALES, default="full", help="small: a look in some minutes (default full)")
    parser.add_argument("--only", nargs="+", metavar="WORK", choices=[work.name for work in works.FULL])
    parser.add_argument("--store", choices=STORES, help="this store alone")
    parser.add_argument("--peers", nargs="+", metavar="PEER", choices=PEERS, help="these alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run, median and target there")
    parser.add_argument("--dir", type=Path, help="where files and stores lie (default: memory, where there is room)")
    return parser.parse_args(argv)


def chosen(options: argparse.Namespace) -> list[Work]:
    """The works that the command line asks for, each with the stores and peers it asks for."""
    found = []
    for work in SCALES[options.scale]:
        stores = tuple(name for name in work.stores if options.store in (None, name))
        peers = tuple(name for name in work.peers if options.peers is None or name in options.peers)
        if stores and peers and (options.only is None or work.name in options.only):
            found.append(Work(work.name, work.count, work.size, peers, stores, work.repeats, work.sparse))
    return found


def place(asked: Path | None, wanted: Sequence[Work]) -> Path:
    """Where to put files and stores: memory when it holds the largest work, a store's copy and as much again."""
    need = 3 * max((work.bytes for work in wanted if not work.sparse), default=0) + GIB
    if asked is None and MEMORY.is_dir():
        # The kernel's estimate: pages that are merely cached would not count as free.
        told = re.search(r"^MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        available = int(told[1]) << 10 if told else 0
        if min(available, shutil.disk_usage(MEMORY).free) > need:
            return MEMORY
    return asked or Path(tempfile.gettempdir())


def contestants(wanted: Sequence[Work]) -> tuple[dict[str, str], dict[str, str]]:
    """Return {peer: version} of those that run here and {peer: reason} of the others."""
    there, absent = {}, {}
    for name in dict.fromkeys(name for work in wanted for name in work.peers):
        try:
            there[name] = PEERS[name].version()
        except Absent as reason:
            absent[name] = str(reason)
    return there, absent


@contextmanager
def made(work: Work, folder: Path) -> Iterator[Path]:
    """Give the folder with the files of `work`, and remove it afterwards."""
    home = folder / work.name
    try:
        works.make(work, home)
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def compete(work: Work, store: Store, peers: Sequence[Peer], home: Path, rounds: int) -> Iterator[runs.Run]:
    """Yield one run of each peer for each round."""
    files = works.files(home)
    for number in range(rounds * work.repeats):
        turn = number % len(peers)
        for peer in (*peers[turn:], *peers[:turn]):
            run = runs.upload(work, peer, store, files, home, number=number)
            outcome = run.fault or f"{run.wall:.3f} s, CPU {run.cpu:.2f} s, peak {run.peak / MIB:.1f} MiB"
            print(f"{work.name} {store.name} {number + 1} {peer.name}: {outcome}", file=sys.stderr, flush=True)
            yield run


def measure(outcome: report.Outcome, folder: Path) -> None:
    """Run everything, filling `outcome` as it goes."""
    for work in outcome.works:
        peers = [PEERS[name] for name in work.peers if name in outcome.versions]
        with made(work, folder) as home:
            for name in work.stores:
                try:
                    with STORES[name](folder / f"{name}-store") as store:
                        if name == "null" and not outcome.ceiling:
                            outcome.ceiling["requests a second"] = ceiling.requests(store.endpoint, folder)
                            outcome.ceiling["bytes a second"] = ceiling.stream(store.endpoint)
                            outcome.ceiling["bytes of SHA-256 a second"] = ceiling.sha256()
                        for run in compete(work, store, peers, home, outcome.rounds):
                            outcome.runs.append(run)
                except Absent as reason:
                    outcome.absent[name] = str(reason)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print. Return 0; 1 when an upload failed, 130 when interrupted; a missed target changes nothing."""
    options = arguments(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything below is cleaned up
    wanted = chosen(options)
    outcome = report.Outcome(options.scale, options.rounds, wanted, *contestants(wanted))
    code = 0
    try:
        with tempfile.TemporaryDirectory(prefix="freepost-bench-", dir=place(options.dir, wanted)) as folder:
            measure(outcome, Path(folder))
    except KeyboardInterrupt:
        print("interrupted; the figures are of what was done by then", file=sys.stderr)
        code = 130
    print(report.text(outcome))
    if options.json:
        options.json.write_text(json.dumps(report.document(outcome), indent=1) + "\n")
    return code or int(any(run.fault for run in outcome.runs))


if __name__ == "__main__":
    sys.exit(main())
