"""What a command of `provision` costs before it does anything: processor time, as a ratio to importing boto3.

``python -m tests.bench.starting_up [--rounds 15] [--json FILE]``

Each round runs every command once, in an order that turns by one, and takes its user and system time, those of its
children included (`wait4`). The store is an embedded one of the bench's own, with one job that has succeeded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

UNIT = "python -c 'import boto3'"
JOB = "name: starting-up\nrun: {command: mkdir out && echo yes > out/it}\noutputs: [out/**]\n"
CLIENT = "import boto3; boto3.client('s3', 'us-east-1', aws_access_key_id='a', aws_secret_access_key='b')"
TARGETS = {"provision --help": 0.8, "provision store status": 1.0, "provision status JOB": 2.2}


def command(*words):
    """`provision` with these words, as the installed script starts it."""
    return [sys.executable, "-c", "import sys; from provisioner.__main__ import run; sys.exit(run())", *words]


def commands(job, file):
    """What is measured, by its name."""
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        UNIT: [sys.executable, "-c", "import boto3"],
        "…, and an S3 client": [sys.executable, "-c", CLIENT],
        "provision --help": command("--help"),
        "provision store status": command("store", "status"),
        "provision status JOB": command("status", job),
        "provision jobs": command("jobs"),
        "provision collect JOB": command("collect", job, str(file.parent / "results")),
        "provision launch --dry-run": command("launch", str(file), "--local", "--dry-run"),
        "provision url put": command("url", "put", "s3://freepost/x", "--local"),
    }


def processor_seconds(words, environment):
    """User and system seconds of a command, which has to end well."""
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: {said.decode()[-2000:]}")
    return used.ru_utime + used.ru_stime


def measure(folder, environment, rounds):
    """Seconds of every command in each round, by its name."""
    file = folder / "job.yaml"
    file.write_text(JOB)
    words = command("launch", str(file), "--local", "--wait", "--json")
    said = subprocess.run(words, env=environment, capture_output=True, check=True).stdout
    job = next(line["job"] for line in map(json.loads, said.splitlines()) if line["event"] == "job")
    chosen = list(commands(job, file).items())
    spent = {name: [] for name, _ in chosen}
    for number in range(rounds):
        turn = number % len(chosen)
        for name, each in chosen[turn:] + chosen[:turn]:
            spent[name].append(processor_seconds(each, environment))
    return spent


def main():
    """Measure, print a table, and say which targets are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="freepost-bench-") as name:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "FREEPOST_"))}
        environment = {**kept, "FREEPOST_STATE_DIR": f"{name}/state"}
        try:
            spent = measure(Path(name), environment, arguments.rounds)
        finally:
            subprocess.run(command("store", "stop"), env=environment, capture_output=True, check=False)
    unit = statistics.median(spent[UNIT])
    print(f"medians of {arguments.rounds} rounds; load {before:.1f} before and {os.getloadavg()[0]:.1f} after")
    print("                                 ms of processor   least    most   × import boto3   target")
    ratios = {}
    for what, seconds in spent.items():
        ratios[what] = statistics.median(seconds) / unit
        shown = f"{statistics.median(seconds) * 1e3:15.0f} {min(seconds) * 1e3:7.0f} {max(seconds) * 1e3:7.0f}"
        target = TARGETS.get(what)
        verdict = f"{target:g}: {'met' if ratios[what] <= target else 'missed'}" if target else ""
        print(f"{what:33}{shown} {ratios[what]:16.2f}   {verdict}".rstrip())
    if arguments.json:
        report = {"rounds": spent, "ratios": ratios, "targets": TARGETS, "load": before}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
