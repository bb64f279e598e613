"""How soon a job starts: from cloud-init's start of its final stage to the job's first instruction, on a machine.

``python -m tests.bench.starting [--rounds 5] [--suite bookworm] [--json FILE]`` (as root)

Each round boots two machines of the `machine` provider, in an order that turns: one with a whole job, by `provision
launch` on an embedded store, and one with nothing but an empty runcmd. A stage starts when systemd starts its
process (cloud-final.service); guest and host share a kernel, and so its monotonic clock.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from provisioner.providers.base import Phase
from provisioner.providers.nspawn import MachineProvider
from tests.support import guests

TARGET = 1.0  # seconds from the final stage's start to the job's first instruction
JOB = """
name: starting
run:
  command: |
    date +%s.%N
    systemctl show -p Id,ExecMainStartTimestampMonotonic cloud-final.service freepost.service
  timeout: 2m
"""
SHOW = "systemctl show -p Id,ExecMainStartTimestampMonotonic,ExecMainExitTimestampMonotonic cloud-final.service"
WAIT = (
    f"systemd-run --no-block -p After=cloud-final.service sh -c '{SHOW} >/dev/console; systemctl --no-block poweroff'"
)
PLAIN = b"#cloud-config\n" + json.dumps({"bootcmd": [WAIT], "runcmd": []}).encode()


def provision(folder, *words):
    """Run `provision` in a process of its own, with a store of its own, and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FREEPOST_"))}
    environment["FREEPOST_STATE_DIR"] = str(folder / "state")
    command = [sys.executable, "-m", "provisioner", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"provision {words[0]}: {done.stderr[-2000:]}")
    return done.stdout


def seconds(text, unit, what):
    """When something happened to a unit, on the monotonic clock."""
    block = next(block for block in text.split("\n\n") if f"Id={unit}" in block)
    return int(re.search(rf"ExecMain{what}TimestampMonotonic=(\d+)", block)[1]) / 1e6


def ours(folder, suite, number):
    """Launch a job; return seconds from the final stage's start to the unit's, and to the job's first instruction."""
    job = folder / "job.yaml"
    job.write_text(JOB)
    said = provision(folder, "launch", job, "--provider", "machine", "--set", f"vm.image={suite}", "--wait", "--json")
    name = next(line["job"] for line in map(json.loads, said.splitlines()) if line["event"] == "job")
    log = provision(folder, "logs", name)
    first = float(log.splitlines()[0]) - (time.time() - time.monotonic())
    begun = seconds(log, "cloud-final.service", "Start")
    return {"unit": seconds(log, "freepost.service", "Start") - begun, "job": first - begun}


def plain(folder, suite, number):
    """Boot an empty runcmd; return how long the final stage takes."""
    provider = MachineProvider("", folder / "machines")
    (instance,) = provider.launch(guests.order(PLAIN, f"plain-{number}", image=suite))
    try:
        guests.wait_for(provider, instance, Phase.GONE, 90)
        said = provider.console(instance).decode("utf-8", "replace").replace("\r", "")
    finally:
        provider.terminate([instance])
    said = said[said.index("ExecMain") :] + "\n\n"
    return {"stage": seconds(said, "cloud-final.service", "Exit") - seconds(said, "cloud-final.service", "Start")}


def main():
    """Measure, print a table, and say whether the target is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    guests.built(arguments.suite)
    rows = []
    with tempfile.TemporaryDirectory(prefix="freepost-bench-") as name:
        folder = Path(name)
        provision(folder, "store", "start")
        try:
            for number in range(arguments.rounds):
                row = {}
                for measure in (ours, plain) if number % 2 else (plain, ours):
                    row.update(measure(folder, arguments.suite, number))
                rows.append(row)
                print(f"round {number + 1}: " + ", ".join(f"{key} {row[key]:.3f}" for key in sorted(row)), flush=True)
        finally:
            provision(folder, "store", "stop")
    median = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    print(f"\n{arguments.suite}, medians of {len(rows)} rounds; seconds from the start of cloud-init's final stage")
    print("                                              median    least     most")
    for key, what in (
        ("stage", "plain, empty runcmd: to the stage's end"),
        ("unit", "a job: to the start of its unit"),
        ("job", "a job: to its first instruction"),
    ):
        values = [row[key] for row in rows]
        print(f"{what:44}  {median[key]:6.3f}   {min(values):6.3f}   {max(values):6.3f}")
    verdict = "met" if median["job"] <= TARGET else "missed"
    print(f"target: a job's first instruction within {TARGET:g} s: {verdict}")
    if arguments.json:
        report = {"suite": arguments.suite, "target": TARGET, "median": median, "rounds": rows}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
