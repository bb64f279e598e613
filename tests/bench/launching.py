"""What a launch costs the machine it is run on: CPU and memory of `provision launch` for 1,000 and for 10,000 tasks.

``python -m tests.bench.launching [--sizes 1000,10000] [--isolation group|task] [--json FILE]``

EC2 is moto as a server in a process of its own, the bucket an embedded SeaweedFS. Between client and EC2 stands the
gateway of tests/ec2, which counts calls; its CPU is not the client's. The client runs under meter.py. What is not
measured: AWS's own limits (2 RunInstances calls a second), which a custom endpoint doesn't have.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from provisioner.embedded.server import EmbeddedStore, connect
from tests.ec2.conftest import REGION
from tests.ec2.gateway import Gateway
from tests.support import moto

METER = Path(__file__).with_name("meter.py")
LIMIT = 3600  # seconds
MIB = 1 << 20
TARGET = 11  # times the cost of 1,000 tasks that 10,000 may have


def measure(tasks, isolation, store, folder):
    """Launch so many tasks and return what it cost."""
    with ExitStack() as stack:
        cloud = stack.enter_context(Gateway(stack.enter_context(moto.running(folder))))
        bucket = f"bench-{tasks}-{isolation}"
        with connect(store) as client:
            client.create_bucket(Bucket=bucket)
        job = {
            "name": "bench",
            "array": tasks,
            "isolation": isolation,
            "store": {"url": f"s3://{bucket}/p", "endpoint_url": store.endpoint_url, "region": store.region},
            "vm": {"provider": "ec2", "region": REGION, "endpoint_url": cloud.url, "image": "amazon/*"},
            "run": {"command": "hostname > out"},
            "outputs": ["out"],
        }
        path, result = folder / f"{tasks}.json", folder / f"{tasks}.result"
        path.write_text(json.dumps(job))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FREEPOST_"))},
            "AWS_ACCESS_KEY_ID": store.access_key,
            "AWS_SECRET_ACCESS_KEY": store.secret_key,
            "FREEPOST_STATE_DIR": str(folder / "state"),
        }
        command = [sys.executable, "-I", "-S", str(METER), str(result), str(LIMIT)]
        command += [sys.executable, "-m", "provisioner", "launch", str(path)]
        with path.with_suffix(".log").open("wb") as log:
            subprocess.run(command, env=environment, check=True, stdout=log, stderr=log)
        cost = json.loads(result.read_text())
        if cost["exit"] != 0:
            said = path.with_suffix(".log").read_text()[-2000:]
            raise SystemExit(f"the launch of {tasks} tasks ended with {cost['exit']}: {said}")
        made = int(cloud.calls["CreateTags"]) if isolation == "group" else int(cloud.calls["RunInstances"])
        if made != tasks:
            raise SystemExit(f"{made} VMs were tagged or started for {tasks} tasks")
        return {
            "tasks": tasks,
            "isolation": isolation,
            "cpu_seconds": round(cost["user"] + cost["system"], 2),
            "wall_seconds": round(cost["wall"], 1),
            "peak_mib": round(cost["peak"] / MIB, 1),
            "run_instances": cloud.calls["RunInstances"],
            "ec2_calls": cloud.calls.total(),
        }


def main():
    """Measure each size, print a table, and say whether the largest stays within its bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1000,10000")
    parser.add_argument("--isolation", default="group", choices=["group", "task"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="freepost-bench-") as name:
        server = EmbeddedStore(Path(name) / "store")
        try:
            store = server.start()
            print("  tasks  isolation  CPU s  ms/task  peak MiB  wall s  RunInstances  EC2 calls", flush=True)
            for size in map(int, arguments.sizes.split(",")):
                row = measure(size, arguments.isolation, store, Path(name))
                rows.append(row)
                each = 1000 * row["cpu_seconds"] / size
                print(
                    f"{size:7}  {row['isolation']:9}  {row['cpu_seconds']:5.1f}  {each:7.2f}  {row['peak_mib']:8.1f}"
                    f"  {row['wall_seconds']:6.1f}  {row['run_instances']:12}  {row['ec2_calls']:9}",
                    flush=True,
                )
        finally:
            server.stop()
    first, last = rows[0], rows[-1]
    bound = TARGET * last["tasks"] / (10 * first["tasks"])
    for what in ("cpu_seconds", "peak_mib"):
        ratio = last[what] / first[what]
        verdict = "holds" if ratio <= bound else "FAILS"
        print(f"{what}: {last['tasks']} tasks cost {ratio:.2f} × {first['tasks']} (bound {bound:g}): {verdict}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
