"""Every sentence that the product says to people, read from its source: errors, hints, events, help.

Where a sentence holds a value, the value's expression stands in braces. One about an argument (`BadInput`) begins with
its name, as the library's callers see it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("agent", "provisioner", "freepost")
SAYING = {"say": "line", "Event": "event", "refuse": "line"}  # what is called with a sentence that is no error
TITLES = {"Event": 1}  # which argument is the sentence, where it isn't the first


@dataclass(frozen=True, order=True)
class Message:
    """One sentence: the module that says it, its kind (error, hint, event, line, command, option) and its text."""

    module: str
    kind: str
    text: str


def collect() -> list[Message]:
    """Read all of the product's sentences, sorted."""
    sources = {path: ast.parse(path.read_text()) for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))}
    errors = error_classes(list(sources.values()))
    found = set()
    for path, tree in sources.items():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found |= {Message(module, kind, " ".join(text.split())) for kind, text in _said(tree, errors) if text.strip()}
    return sorted(found)


def error_classes(trees: list[ast.Module]) -> set[str]:
    """The names of all exceptions that the product defines."""
    bases = {
        node.name: [ast.unparse(base).rpartition(".")[2] for base in node.bases]
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {"Exception", "ValueError"}
    while more := {name for name, above in bases.items() if name not in found and found & set(above)}:
        found |= more
    return found & set(bases)


def _said(tree: ast.Module, errors: set[str]) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _called(node, errors)
        elif isinstance(node, ast.Assign) and [ast.unparse(each) for each in node.targets] == ["message"]:
            yield from _texts("error", node.value)
        elif isinstance(node, ast.FunctionDef) and any("command(" in ast.unparse(each) for each in node.decorator_list):
            yield "command", (ast.get_docstring(node) or "").split("\n\n")[0]


def _called(node: ast.Call, errors: set[str]) -> Iterator[tuple[str, str]]:
    name = ast.unparse(node.func).rpartition(".")[2]
    if name in errors | set(SAYING) and len(node.args) > TITLES.get(name, 0):
        wrong = [each.value for each in node.keywords if each.arg == "argument"]
        argument = "".join(f"{written(each) or '{' + _source(each) + '}'}: " for each in wrong)
        for kind, text in _texts(SAYING.get(name, "error"), node.args[TITLES.get(name, 0)]):
            yield kind, argument + text
    for keyword in node.keywords:
        if keyword.arg == "hint":
            yield from _texts("hint", keyword.value)
        elif keyword.arg == "help" and name in ("Option", "Argument"):
            yield from _texts("option", keyword.value)


def _texts(kind: str, node: ast.expr) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.IfExp):
        yield from _texts(kind, node.body)
        yield from _texts(kind, node.orelse)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from _texts(kind, value)
    elif (text := written(node)) is not None:
        yield kind, text


def written(node: ast.expr) -> str | None:
    """The text of a string as its source has it, None for what is no string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(written(each) or "" for each in node.values)
    if isinstance(node, ast.FormattedValue):
        return "{" + _source(node.value) + "}"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return written(node.left)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = written(node.left), written(node.right)
        if left is None and right is None:
            return None
        return (left or "{" + _source(node.left) + "}") + (right or "{" + _source(node.right) + "}")
    return None


def _source(node: ast.expr) -> str:
    """An expression as every Python writes it: 3.10 puts the names of a loop in parentheses, later ones don't."""
    return re.sub(r"\bfor \(([\w, ]+)\) in", r"for \1 in", ast.unparse(node))
