"""The agent is composed by arguments: no module reaches into another to replace what is there."""

import ast
from pathlib import Path

import pytest

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
