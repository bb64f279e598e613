"""The examples: each job.yaml is right, and what it runs does its work with nothing else around."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from provisioner.job import load

EXAMPLES = Path(__file__).parents[3] / "examples"
JOBS = sorted(EXAMPLES.glob("*/job.yaml"))


def work(job, folder, task):
    """Run a job's command the way the agent does, in a folder with its files; return what it printed."""
    for file in job.run.files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(int(file.mode, 8))
    env = {
        **job.run.env,
        "PATH": os.environ["PATH"],
        "FREEPOST_JOB": "j",
        "FREEPOST_TASK": task,
        "FREEPOST_ATTEMPT": "1",
    }
    done = subprocess.run(job.run.command, cwd=folder, env=env, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.parent.name)
def test_job_is_right(path):
    """Every example's job.yaml loads, says how to run it, and brings something home."""
    job = load.load(path)
    assert job.outputs
    assert f"provision launch examples/{path.parent.name}/job.yaml" in path.read_text()


def test_hello(tmp_path):
    """The first job writes three files under out/ and says so in its log."""
    log = work(load.load(EXAMPLES / "hello/job.yaml"), tmp_path, "0")
    assert log.splitlines() == ["Hello from a VM that holds no credentials"]
    assert (tmp_path / "out/hello.txt").read_text() == "Hello from a VM that holds no credentials\n"
    assert (tmp_path / "out/about.txt").read_text().startswith("Linux")
    assert (tmp_path / "out/data/squares.csv").read_text().splitlines()[4] == "5,25"


def test_pi(tmp_path):
    """Four tasks estimate pi with different darts, and the combined estimate is within five standard errors."""
    job = load.load(EXAMPLES / "pi/job.yaml", ["run.env.DARTS=20000"])
    assert job.tasks == ("0", "1", "2", "3")
    for task in job.tasks:
        (tmp_path / task).mkdir()
        assert f"task {task}: " in work(job, tmp_path / task, task)
    results = [json.loads((tmp_path / task / "out/estimate.json").read_text()) for task in job.tasks]
    assert len({each["inside"] for each in results}) == 4
    combine = [sys.executable, EXAMPLES / "pi/combine.py"]
    line = subprocess.run([*combine, tmp_path], capture_output=True, text=True, check=True).stdout
    mean = 4 * sum(each["inside"] for each in results) / 80_000
    assert line.startswith(f"4 tasks, 80000 darts: pi is {mean:.5f} ± ")
    assert abs(mean - math.pi) < 5 * math.sqrt(math.pi * (4 - math.pi) / 80_000)


def test_pi_without_results(tmp_path):
    """Combining nothing is a sentence, not a division by zero."""
    program = [sys.executable, EXAMPLES / "pi/combine.py", tmp_path]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"No TASK/out/estimate.json in {tmp_path}; collect the job first.\n"
