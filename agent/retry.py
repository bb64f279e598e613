"""Repeats attempts that failed for a reason that may pass."""

import os
import time

from agent.errors import ExitCode, TransferError

TRIES, WAIT, PATIENCE = 10, 0.5, 300  # attempts; the first pause, and all of them, in seconds


def with_retries(attempt, until=0, pause=time.sleep, tries=0):
    """Return what `attempt()` returns; after failures that may pass try again: exponential back-off, full jitter.

    Raise the last TransferError once `tries` (0: TRIES), PATIENCE or `until` (seconds since 1970; 0: none) is used up,
    or `pause(seconds)` returns true.
    """
    spent = tried = 0
    while True:
        try:
            return attempt()
        except TransferError as error:
            tried += 1
            wait = error.wait or min(30, WAIT * 2**tried) * os.urandom(1)[0] / 255
            spent += wait
            if (
                error.exit < ExitCode.UNREACHABLE
                or error.permanent
                or tried == (tries or TRIES)
                or spent > PATIENCE
                or 0 < until < time.time() + wait
            ):
                raise
            if pause(wait):
                raise
