"""The one place that tries again. Stores and providers do each thing once and say whether it may work later.

`Retry` repeats one call. `s3.retrying` and `providers.retrying` wrap a whole store, form client or provider with it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from provisioner.errors import Unreachable

P = ParamSpec("P")
T = TypeVar("T")

_jitter = random.SystemRandom()


@dataclass
class Download:
    """An object on its way to `take`, which gets each byte once and in order, however often `Store.fetch` is called.

    `received` bytes of `size` have come so far, of the version of the object that `etag` names.
    """

    take: Callable[[bytes], object]
    received: int = 0
    size: int | None = None
    etag: str = ""


@dataclass(frozen=True)
class Retry:
    """Makes a call up to `attempts` times while it raises Unreachable.

    Pauses are exponential with full jitter: up to ``base_seconds × 2^n`` before try n+1. Every other error is permanent
    and passes through at once.

    A call may fail when half of it is done, and is then made again with the very same arguments. So it has to be one
    that a second call completes or finds done, and

    - takes what can be read again from its start (bytes, a path, a sequence) or what knows how far a failed call came
      (`Download`), never an open file, an iterator or a function that consumes what it is given;
    - returns when it is done: no generator or open stream, whose errors would come when nobody tries again.

    A test holds the signatures of everything that is wrapped to this.
    """

    attempts: int = 5
    base_seconds: float = 0.25
    sleep: Callable[[float], None] = time.sleep

    def __call__(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the call returns. Raise what it raises, Unreachable after the last attempt only."""
        for attempt in range(1, self.attempts):
            try:
                return call(*args, **kwargs)
            except Unreachable:
                self.sleep(_jitter.uniform(0, self.base_seconds * 2**attempt))
        return call(*args, **kwargs)


DEFAULT_RETRY = Retry()
