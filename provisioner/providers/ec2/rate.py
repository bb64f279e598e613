"""Keeps requests below EC2's limits: token buckets like EC2's own, which slow down when it throttles and recover.

The figures are AWS's "Request throttling for the Amazon EC2 API": how many at once, and how many a second after that.
A cloud that isn't AWS has limits of its own: there nothing is held back until it throttles for the first time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from provisioner.errors import Stopped

RUN_INSTANCES = (1000.0, 2.0)  # VMs
REQUESTS = {
    "run_instances": (5.0, 2.0),
    "terminate_instances": (100.0, 5.0),
    "create_tags": (100.0, 10.0),
}
MUTATING = (50.0, 5.0)
READING = (100.0, 20.0)
_SLOWEST = 1 / 16  # of the nominal rate
_GROWTH = 1 / 20  # of the nominal rate, with each request that was not throttled


class TokenBucket:
    """Holds up to `capacity` tokens and gets `refill` a second. `take` waits for its turn, in the order of calls."""

    def __init__(
        self,
        capacity: float,
        refill: float,
        *,
        bounded: bool = True,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self.capacity = capacity
        self.nominal = self.refill = refill
        self.bounded = bounded
        self._level = capacity
        self._clock = clock
        self._wait = wait or threading.Event().wait
        self._last = clock()
        self._lock = threading.Lock()

    def take(self, tokens: float = 1) -> None:
        """Wait for tokens and take them. Raise Stopped if `RateLimits.stop` comes first.

        More than the capacity may be taken: it is owed, and the next call waits for it, too.
        """
        with self._lock:
            self._refill()
            if not self.bounded:
                return
            self._level -= tokens
            due = -self._level / self.refill
        if due > 0 and self._wait(due):
            raise Stopped("stopped before the request was sent", hint="the same command goes on from here")

    def slow_down(self) -> None:
        """Halve the rate, after the service throttled, and drop what was saved up."""
        with self._lock:
            self._refill()
            self.bounded = True
            self.refill = max(self.refill / 2, self.nominal * _SLOWEST)
            self._level = min(self._level, 0.0)

    def speed_up(self) -> None:
        """Raise the rate a little towards the nominal one, after the service did not throttle."""
        with self._lock:
            self._refill()
            self.refill = min(self.nominal, self.refill + self.nominal * _GROWTH)

    def _refill(self) -> None:
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._last) * self.refill)
        self._last = now


class RateLimits:
    """The buckets of one account and region. `bounded` is False for a cloud whose limits aren't known."""

    def __init__(
        self,
        *,
        bounded: bool,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._bounded = bounded
        self._clock = clock
        self._stop = threading.Event()
        self._wait = wait or self._stop.wait
        self._buckets: dict[str, TokenBucket] = {}
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Let every call that waits give up."""
        self._stop.set()

    def bucket(self, action: str) -> TokenBucket:
        """Return the bucket of an API call, by its name in botocore, or ``instances``, the VMs that calls start."""
        kind = action if action in REQUESTS or action == "instances" else self._kind_of(action)
        figures = {**REQUESTS, "instances": RUN_INSTANCES, "mutating": MUTATING, "reading": READING}[kind]
        with self._lock:
            if kind not in self._buckets:
                self._buckets[kind] = TokenBucket(*figures, bounded=self._bounded, clock=self._clock, wait=self._wait)
            return self._buckets[kind]

    @staticmethod
    def _kind_of(action: str) -> str:
        return "reading" if action.startswith(("describe_", "get_", "list_")) else "mutating"
