"""The one place that tries again. Stores and providers do each thing once and say whether it may work later."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from provisioner.errors import Unreachable

T = TypeVar("T")


@dataclass
class Download:
    """An object on its way to `take`, which gets each byte once and in order, however often `Store.fetch` is called.

    `received` bytes of `size` have come so far, of the version of the object that `etag` names.
    """

    take: Callable[[bytes], object]
    received: int = 0
    size: int | None = None
    etag: str = ""


class _Retried:
    def __init__(self, inner: object, attempts: int, base: float, sleep: Callable[[float], None]) -> None:
        self._inner = inner
        self._attempts = attempts
        self._base = base
        self._sleep = sleep

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - stands in for any attribute
        attribute = getattr(self._inner, name)
        if not callable(attribute):
            return attribute

        @functools.wraps(attribute)
        def call(*args: object, **kwargs: object) -> object:
            for attempt in range(1, self._attempts):
                try:
                    return attribute(*args, **kwargs)
                except Unreachable:
                    self._sleep(random.uniform(0, self._base * 2**attempt))  # noqa: S311 - jitter, not a secret
            return attribute(*args, **kwargs)

        return call


def retried(target: T, *, attempts: int = 5, base: float = 0.25, sleep: Callable[[float], None] = time.sleep) -> T:
    """Wrap `target` so that each method is tried up to `attempts` times while it raises Unreachable.

    Waits are exponential with full jitter: up to ``base × 2^n`` seconds before try n+1. Every other error is
    permanent and passes through at once.

    A call may fail when half of it is done, and is then made again with the very same arguments. So each method of
    `target` has to be one that a second call completes or finds done, and

    - takes what can be read again from its start (bytes, a path, a sequence) or what knows how far a failed call came
      (`Download`), never an open file, an iterator or a function that consumes what it is given;
    - returns when it is done: no generator or open stream, whose errors would come when nobody tries again.

    A test holds the signatures of everything that is wrapped to this.
    """
    return cast("T", _Retried(target, attempts, base, sleep))
