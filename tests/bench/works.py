"""The works: which files, who sends them, to which store; and how the files are made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
BLOCK = 16 * MIB  # of random bytes, repeated: no store here looks for repetition, and 4 GiB of it would take 10 s
EVERYONE = ("agent", "s5cmd", "rclone", "awscli", "curl")


@dataclass(frozen=True)
class Work:
    """`count` files of `size` bytes each, sent `repeats` times a round by each of `peers` to each of `stores`."""

    name: str
    count: int
    size: int
    peers: tuple[str, ...] = EVERYONE
    stores: tuple[str, ...] = ("null",)
    repeats: int = 1
    sparse: bool = False

    @property
    def bytes(self) -> int:
        """What one upload carries, in bytes."""
        return self.count * self.size

    def __str__(self) -> str:
        if self.count == 1:
            return f"1 file of {human(self.size)}"
        return f"{self.count:,} files of {human(self.size)}"


FULL = (
    Work("small", 10_000, 4 * KIB, peers=("agent", "agent-bundle", "s5cmd", "rclone", "awscli", "curl")),
    Work("large", 1, 4 * GIB, stores=("null", "weed")),
    Work("medium", 200, 20 * MIB, stores=("null", "weed")),
    Work("tiny", 1, 1 * KIB, repeats=10),
    Work("flat-1", 1, 1 * GIB, peers=("agent",), sparse=True),
    Work("flat-16", 1, 16 * GIB, peers=("agent",), sparse=True),
)
# For a look in a minute or two: the same shapes, too small for the figures to mean much.
SMALL = (
    Work("small", 1_000, 4 * KIB, peers=FULL[0].peers),
    Work("large", 1, 256 * MIB, stores=("null", "weed")),
    Work("medium", 20, 20 * MIB, stores=("null", "weed")),
    Work("tiny", 1, 1 * KIB, repeats=2),
    Work("flat-1", 1, 64 * MIB, peers=("agent",), sparse=True),
    Work("flat-16", 1, 1 * GIB, peers=("agent",), sparse=True),
)
SCALES = {"full": FULL, "small": SMALL}


def make(work: Work, folder: Path) -> None:
    """Make the files of `work` in `folder`, 100 a subfolder, named without surprises."""
    block = os.urandom(min(work.size, BLOCK))
    for number in range(work.count):
        path = folder / f"{number // 100:03d}" / f"{number:06d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            if work.sparse:
                file.truncate(work.size)
                continue
            whole, rest = divmod(work.size, len(block))
            for at in range(whole):
                file.write(at.to_bytes(8, "big") + number.to_bytes(8, "big") + block[16:])
            file.write(block[:rest])


def files(folder: Path) -> list[Path]:
    """The files that `make` made, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def human(count: float) -> str:
    """A number of bytes for people: 20 MiB."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"
