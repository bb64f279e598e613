"""What GitHub reads: forms and the workflow are what its schema asks for, and CI is .ci/run."""

from pathlib import Path

import pytest
import yaml

GITHUB = Path(__file__).parents[2] / ".github"
FORMS = [path for path in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]


def test_the_workflow_calls_ci_run():
    """It adds nothing of its own to what must pass, and may write nothing."""
    flow = yaml.safe_load((GITHUB / "workflows/ci.yml").read_text())
    steps = [step.get("run", "") for job in flow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in steps
    assert not [step for step in steps if "pytest" in step or "nox" in step]
    assert flow["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms(path):
    """Each has a name, a description and fields with labels and ids of their own."""
    form = yaml.safe_load(path.read_text())
    assert form["name"]
    assert form["description"]
    fields = [item for item in form["body"] if item["type"] != "markdown"]
    assert all(item["attributes"]["label"] for item in fields)
    assert len({item["id"] for item in fields}) == len(fields) > 2
