"""The agent is composed by arguments: no module reaches into another to replace what is there."""

import ast
from pathlib import Path

import pytest

from agent.compose import compose
from agent.push_server import ServerCompanion
from agent.renew import ExpiryReporter
from agent.spot import SpotCompanion
from agent.upload import new_uploader
from tests.support.grants import fake_grant, write_grant

MAILBOX = {"url": "http://127.0.0.1:1/b/p/j/mail/0/1/000001?X-Amz-Signature=0", "until": "2099-01-01T00:00:00Z"}
MODULES = sorted((Path(__file__).parents[3] / "agent").glob("*.py"))


def imported(tree):
    """Every name in a module that comes from another of the agent."""
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return {
        alias.asname or alias.name
        for node in nodes
        if (node.module or "").split(".")[0] == "agent"
        for alias in node.names
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_module_rebinds_anothers_names(path):
    """Nothing is assigned to an attribute of what was imported: neither of a module, nor of a class."""
    tree = ast.parse(path.read_text())
    names = imported(tree)
    targets = [
        target
        for node in ast.walk(tree)
        for target in (node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)])
    ]
    assert not [
        ast.unparse(leaf)
        for target in targets
        if target is not None
        for leaf in ast.walk(target)
        if isinstance(leaf, ast.Attribute) and isinstance(leaf.value, ast.Name) and leaf.value.id in names
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_class_makes_its_own(path):
    """No `__new__` gives out what is of another class, and none is made up by `type` while the agent runs."""
    tree = ast.parse(path.read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__new__"]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert not [node for node in calls if node.func.id in ("type", "setattr") and len(node.args) == 3]


def test_a_command_is_composed_of_what_its_grant_asks_for(tmp_path):
    """Without a mailbox an uploader knows of no renewal; with one it waits for it, past the grant's own end."""
    grant = fake_grant("http://127.0.0.1:1")
    assert compose(grant, tmp_path / "grant.json") == (grant.expires, new_uploader, [])
    renewed = grant._replace(mailbox=MAILBOX)
    until, make_uploader, companions = compose(renewed, write_grant(tmp_path, renewed))
    assert until > grant.expires
    assert make_uploader is not new_uploader
    assert companions == []


@pytest.mark.parametrize(
    ("task", "mailbox", "expected"),
    [
        ({"user": None}, None, []),
        ({"user": "job"}, None, [ServerCompanion]),
        ({"user": None, "spot": True}, None, [SpotCompanion]),
        ({"user": None}, MAILBOX, [ExpiryReporter]),
        ({"user": "job", "spot": True}, MAILBOX, [ServerCompanion, SpotCompanion, ExpiryReporter]),
    ],
)
def test_a_task_has_the_companions_that_it_asks_for(tmp_path, task, mailbox, expected):
    """A push server for a job that can't read the grant, the watch of a spot VM, and word of a grant that ends."""
    grant = fake_grant("http://127.0.0.1:1")._replace(mailbox=mailbox)
    _, _, companions = compose(grant, write_grant(tmp_path, grant), task)
    assert [type(each) for each in companions] == expected
