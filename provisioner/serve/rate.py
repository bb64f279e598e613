"""How much each token, and each address without one, may ask for: token buckets in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

_REMEMBERED = 10_000  # callers; the one not heard of for longest is forgotten, which can only fill its bucket


@dataclass
class Limiter:
    """Each caller may do `burst` at once and `rate` a second in the long run. `clock` is monotonic seconds."""

    rate: float
    burst: int
    clock: Callable[[], float]
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def take(self, caller: str, count: int = 1) -> float:
        """Take `count` (at most the burst counts) for `caller`; 0 if it may, else seconds until it may."""
        wanted = min(count, self.burst)
        with self._lock:
            now = self.clock()
            left, then = self._left.pop(caller, (float(self.burst), now))
            left = min(float(self.burst), left + (now - then) * self.rate)
            wait = max(0.0, (wanted - left) / self.rate)
            self._left[caller] = (left if wait else left - wanted, now)
            if len(self._left) > _REMEMBERED:
                self._left.popitem(last=False)
            return wait
