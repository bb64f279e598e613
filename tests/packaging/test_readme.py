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


def test_links_work_where_a_package_index_shows_it():
    """Each link is absolute, and each to this repository names a file of it."""
    urls = re.search(r"\[project\.urls\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), re.DOTALL)[1]
    source = re.search(r'Source = "(.+)"', urls)[1]
    raw = source.replace("github.com", "raw.githubusercontent.com")
    targets = re.findall(r"\]\(([^)]+)\)", README)
    assert all(target.startswith("https://") for target in targets)
    own = [re.sub(f"^({source}/blob|{raw})/main/", "", target) for target in targets]
    own = [target for target in own if not target.startswith("https://")]
    assert len(own) > 20
    for target in own:
        assert (ROOT / target.partition("#")[0]).exists(), target


def test_each_promise_names_its_test():
    """What the table of promises links to holds a test of that name."""
    promises = README.partition("## What it promises")[2].partition("\n## ")[0]
    rows = re.findall(r"\[(test_\w+(?:\.py)?)\]\([^)]*/main/(tests/[^)]+)\)", promises)
    assert len(rows) > 5
    for name, path in rows:
        assert path.endswith(f"/{name}") or f"def {name}(" in (ROOT / path).read_text(), name
