"""A member of a group learns from the metadata service which one it is, or posts nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent import grant as grants
from agent import imds
from agent.console import CommandError
from agent.grant import Grant, Target
from agent.remote_grant import load_own
from tests.support.metadata import metadata

POLICY = '{"expiration": "2026-11-23T21:00:00Z", "conditions": [["starts-with", "$key", "p/j/out/"]]}'
ROOT = Path(__file__).parents[3]


@pytest.fixture
def cloud(monkeypatch):
    """A metadata service that says index 2."""
    with metadata({"ami-launch-index": "2"}) as server:
        monkeypatch.setattr(imds, "HOST", server.host)
        yield server


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """The grant of a group of tasks 8 to 11, in the file that the agent reads."""
    outputs = Target("http://127.0.0.1/b/", "p/j/out/{task}/1/", POLICY, {})
    status = Target("http://127.0.0.1/b/", "p/j/status/{task}/1/", POLICY, {})
    path = tmp_path / "grant.json"
    path.write_text(grants.dump(Grant("j", "8-11", 1, 1795467600, outputs, status, [], None, None)))
    monkeypatch.setenv("FREEPOST_GRANT", str(path))
    return path


def test_the_grant_becomes_the_members_own(cloud, shared):
    """The third VM of tasks 8 to 11 is task 10; its grant says so from then on, and is closed to others."""
    mine = load_own()[0]
    assert (mine.task, mine.outputs.prefix, mine.status.prefix) == ("10", "p/j/out/10/1/", "p/j/status/10/1/")
    assert grants.parse(shared.read_text()) == mine
    assert shared.stat().st_mode & 0o777 == 0o400
    cloud.said["ami-launch-index"] = "3"
    assert load_own()[0].task == "10"


@pytest.mark.parametrize("index", ["4", "-1", "nonsense", "", "²", None])
def test_without_an_index_nothing_is_guessed(cloud, shared, index):
    """An index that the group doesn't have, or none, leaves the grant as it was: one sentence, and exit code 3."""
    before = shared.read_bytes()
    cloud.said["ami-launch-index"] = index
    with pytest.raises(CommandError) as end:
        load_own()
    line, code = end.value.args
    assert code == 3
    assert shared.read_bytes() == before
    assert line.startswith("which task is this VM's? its launch index is ")
    assert line.endswith("the tasks are 8-11")


@pytest.mark.parametrize("kind", ["broken", "absent"])
def test_without_a_metadata_service_it_ends_with_a_sentence(cloud, shared, kind):
    """As the VM runs it: a service that fails, or none at all, is one line on the journal, and exit code 3."""
    cloud.broken = True
    host = cloud.host if kind == "broken" else "127.0.0.1:1"
    before = shared.read_bytes()
    program = (
        f"from agent import imds, launch_group; launch_group.TRIES = 2; imds.HOST = {host!r};"
        "from agent.main import main; raise SystemExit(main(['run']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith("agent: which task is this VM's? the metadata service can't be reached: ")
    assert shared.read_bytes() == before


def test_a_grant_that_can_not_be_read_is_no_group(shared):
    """What is wrong with the grant is told before anybody is asked for an index."""
    shared.write_text("{}")
    with pytest.raises(CommandError, match="version"):
        load_own()
    assert shared.read_text() == "{}"
