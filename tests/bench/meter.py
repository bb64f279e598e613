"""Run one command and write what it cost as JSON: ``python -I -S meter.py RESULT LIMIT COMMAND…`` (LIMIT in seconds).

A process of its own and free of imports, because Linux counts the memory of the process that forked into the
ru_maxrss of what it starts: measured from the harness, curl would seem as large as the harness.

RESULT: {"wall": seconds from fork to exit, "user", "system": CPU seconds of the command and all it waited for,
"peak", "shared_once": bytes, "processes": most at once, "exit": code, or minus the signal}. ``peak`` is the greater of
the largest single process (wait4's ru_maxrss) and the sum of VmHWM over the processes alive at once, looked at ten
times a second: pages that two processes share count twice, so it never flatters a command of many processes.
``shared_once`` is the largest sum of PSS seen, in which they count once; it misses what came and went between two
looks, and is 0 for a command that ended before the first.
"""

import json
import os
import select
import signal
import sys
import time

EVERY = 0.1  # seconds between looks at the process tree


def tree(root):
    """Yield `root` and every process below it."""
    yield root
    try:
        for thread in os.listdir(f"/proc/{root}/task"):
            with open(f"/proc/{root}/task/{thread}/children", encoding="ascii") as children:
                for child in children.read().split():
                    yield from tree(int(child))
    except (FileNotFoundError, ProcessLookupError):
        return  # it ended while we looked


def kib(path, field):
    """The bytes of a kB field of a /proc file; 0 when its process is gone."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith(field)), 0)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def measure(command, limit):
    """Run `command` to its end, or kill its process group after `limit` seconds; return the costs."""
    started = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ, setpgroup=0)
    peak = shared_once = processes = 0
    try:
        ended = os.pidfd_open(pid)
        while not select.select([ended], [], [], EVERY)[0]:
            alive = list(tree(pid))
            peak = max(peak, sum(kib(f"/proc/{member}/status", "VmHWM:") for member in alive))
            shared_once = max(shared_once, sum(kib(f"/proc/{member}/smaps_rollup", "Pss:") for member in alive))
            processes = max(processes, len(alive))
            if time.monotonic() - started > limit:
                os.killpg(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        wall = time.monotonic() - started
    except BaseException:
        os.killpg(pid, signal.SIGKILL)
        raise
    return {
        "wall": wall,
        "user": usage.ru_utime,
        "system": usage.ru_stime,
        "peak": max(peak, usage.ru_maxrss * 1024),
        "shared_once": shared_once,
        "processes": max(processes, 1),
        "exit": os.waitstatus_to_exitcode(status),
    }


def main():
    """Measure as the command line says."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the command is killed with us
    result, limit, *command = sys.argv[1:]
    costs = measure(command, float(limit))
    with open(result, "w", encoding="ascii") as file:
        json.dump(costs, file)


if __name__ == "__main__":
    main()
