"""ARCHITECTURE.md is true: what it names exists, and it names every package."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
ROWS = [
    row.strip("| ").split(" | ")
    for row in re.findall(r"^\|.*\|$", PAGE.partition("## Where to change what")[2].partition("\n## ")[0], re.MULTILINE)
][2:]
# What somebody who has read this page alone must be able to answer.
QUESTIONS = {
    "a key of job.yaml": {
        "provisioner/job/keys.py",
        "provisioner/job/spec.py",
        "provisioner/job/job.schema.json",
        "provisioner/jobs/record.py",
        "provisioner/userdata/render.py",
    },
    "a provider": {
        "provisioner/providers/base.py",
        "provisioner/providers/registry.py",
        "provisioner/userdata/audit.py",
    },
    "a store's quirk in its error answers": {"agent/errors.py", "provisioner/s3/answers.py"},
    "an option of `agent`": {
        "agent/options.py",
        "agent/push_command.py",
        "agent/push_server.py",
        "agent/push_client.py",
    },
    "an event": {"agent/layout.py", "agent/task.py", "provisioner/jobs/status.py", "provisioner/jobs/decide.py"},
}


def paths(text):
    """The files and folders that a text names."""
    return re.findall(r"`((?:agent|provisioner|templates|tests|docs|examples)/[\w./-]*|[\w-]+\.(?:toml|md|py))`", text)


def test_what_it_names_exists():
    """Each file and folder of the page is one of the repository."""
    named = paths(PAGE)
    assert len(named) > 40
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_answers(question):
    """Each of the five changes has a row: the files to touch, and a test to copy."""
    change, copy = next((change, copy) for what, change, copy in ROWS if what == question)
    assert set(paths(change)) >= QUESTIONS[question]
    assert any(path.startswith("tests/") for path in paths(copy))


def test_every_package_is_in_the_picture():
    """The picture shows each package of the provisioner, in the order that import-linter holds."""
    picture = re.search(r"```\n(.*?)```", PAGE, re.DOTALL)[1]
    shown = [name for name in re.findall(r"^  (\w+) ", picture, re.MULTILINE) if name != "api"]
    packages = {path.parent.name for path in (ROOT / "provisioner").glob("*/__init__.py")}
    assert set(shown) == packages
    contract = re.search(
        r"containers = \[\"provisioner\"\].*?layers = \[(.*?)^\]",
        (ROOT / "pyproject.toml").read_text(),
        re.DOTALL | re.MULTILINE,
    )[1]
    layers = [name for name in re.findall(r"\w+", re.sub(r"#.*", "", contract)) if name in packages]
    assert shown == layers


def test_base_modules_are_in_the_picture():
    """So are the modules at the bottom."""
    base = re.search(r"\(base\) +(.*)", PAGE)[1].split(", ")
    modules = {path.stem for path in (ROOT / "provisioner").glob("*.py")} - {"__init__", "__main__", "api"}
    assert set(base) == modules


def test_what_crosses_is_said():
    """The sentence about what both sides share stands there, word for word."""
    sentence = (
        "What both sides must agree on may be imported by provisioner from agent.errors, agent.layout and agent.grant, "
        "and nothing else crosses."
    )
    assert sentence in PAGE
