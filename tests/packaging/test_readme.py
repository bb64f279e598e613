"""README: short, and its two commands stand where .ci/run looks for them."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_it_is_short():
    """README has fewer than 150 lines."""
    assert len(README.splitlines()) < 150


def test_the_first_block_is_two_commands_of_one_line():
    """The first shell block is two lines to paste: the main job, then the tests; each makes .venv if it must."""
    block = re.search(r"```sh\n(.*?)```", README, re.DOTALL)[1].splitlines()
    assert len(block) == 2
    assert all(line.startswith("python3 -m venv .venv && .venv/bin/pip install ") for line in block)
    assert "provision launch examples/hello/job.yaml" in block[0]
    assert block[1].endswith("&& .venv/bin/pytest")


def test_what_ci_runs_is_what_stands_there():
    """.ci/readme, from which .ci/run and .ci/bare take the two commands, prints them as they stand in README."""
    found = subprocess.run([ROOT / ".ci/readme"], check=True, capture_output=True, text=True).stdout
    assert f"```sh\n{found}```" in README
    assert len(found.splitlines()) == 2


def test_links_lead_somewhere():
    """Each relative link names a file of the repository."""
    for target in re.findall(r"\]\(((?!https?:|#)[^)]+)\)", README):
        assert (ROOT / target.partition("#")[0]).exists(), target
