"""Gives a program's own names a short form, the same in all of its modules: the initials of their words.

Only names that nothing but the program's own code can mean: none that a library or a builtin has, that a call passes by
keyword, or that is looked up by text. What libraries have differs from one Python to the next, and the packed bytes
must not; so what is short is kept in ``short_names.json``, which ``python -m provisioner.packing.rename`` writes anew,
and a test holds to be good on the Python that runs it. A name that isn't in it merely stays long.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import inspect
import json
import keyword
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

# Names that are looked up from outside: by the launcher, and by tests of what is packed.
KEPT = frozenset({"main", "complete", "replace", "HOST", "EVERY", "RESERVE"})
_TABLE = Path(__file__).with_name("short_names.json")
_LOOKUPS = {"getattr", "hasattr", "setattr", "namedtuple"}


class Names(NamedTuple):
    """Short forms by name: of attributes and methods, and of what modules define."""

    attributes: Mapping[str, str]
    globals: Mapping[str, str]


@lru_cache(maxsize=1)
def short_names() -> Names:
    """What is short."""
    return Names(**json.loads(_TABLE.read_text()))


def rename(sources: Mapping[str, str], names: Names) -> dict[str, str]:
    """Rename within a whole program, its sources by name."""
    return {name: ast.unparse(_Renamer(names).visit(ast.parse(source))) for name, source in sources.items()}


def propose(sources: Mapping[str, str]) -> Names:
    """Choose short names for a program, on the Python that runs this."""
    trees = [ast.parse(source) for source in sources.values()]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    modules = {part for name in sources for part in re.split(r"\W", name)}
    foreign, passed = _foreign(nodes), {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg}
    identifiers = Counter(name for node in nodes for name in _identifiers(node))
    taken = {*KEPT, *modules, *foreign, *identifiers}
    own = {name for tree in trees for name in _attributes(tree)} - foreign - KEPT
    attributes = _choose(own, identifiers, taken, letters=True)
    taken |= set(attributes.values())
    defined = {name for tree in trees for name in _globals(tree)} - foreign - KEPT - modules - passed
    return Names(attributes, _choose(defined, identifiers, taken))


def _choose(
    names: Iterable[str], counts: Mapping[str, int], taken: Collection[str], *, letters: bool = False
) -> dict[str, str]:
    """Give each name the first short form that is free, maybe a single letter, the most frequent name first."""
    used, chosen = set(taken), {}
    for name in sorted(names, key=lambda name: (-counts[name], name)):
        short = next(
            (each for each in _candidates(name, letters=letters) if each not in used and not keyword.iskeyword(each)),
            name,
        )
        if len(short) < len(name):
            used.add(short)
            chosen[name] = short
    return dict(sorted(chosen.items()))


def _candidates(name: str, *, letters: bool) -> Iterator[str]:
    """Short forms of a name, in the order to try them in."""
    if letters:
        yield name[0]
        yield name[0].upper()
    words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)
    initials = "".join(word[0] for word in words)
    if len(initials) > 1:
        yield initials
    for length in range(2, len(words[0]) + 1):
        yield words[0][:length] + initials[1:]


def _attributes(tree: ast.Module) -> Iterator[str]:
    """Methods, and the attributes of self or a class."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.ClassDef(body=body):
                yield from (each.name for each in body if isinstance(each, ast.FunctionDef))
                yield from _assigned(body)


def _globals(tree: ast.Module) -> Iterator[str]:
    """Functions, classes and constants."""
    yield from (node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    yield from _assigned(tree.body)


def _assigned(body: list[ast.stmt]) -> Iterator[str]:
    targets = (target for node in body if isinstance(node, ast.Assign) for target in node.targets)
    yield from (leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name))


def _identifiers(node: ast.AST) -> Iterator[str]:
    """Every identifier that a node has itself."""
    yield from (name for field in ("id", "attr", "arg", "name") if isinstance(name := getattr(node, field, None), str))


def _foreign(nodes: list[ast.AST]) -> set[str]:
    """Names that a library or a builtin has, or that are looked up by text."""
    found = {*dir(builtins), *(name for each in vars(builtins).values() for name in dir(each))}
    for node in nodes:
        match node:
            case ast.Call(func=ast.Name(id=called), args=arguments) if called in _LOOKUPS:
                texts = [each.value for each in arguments if isinstance(each, ast.Constant)]
                found.update(word for text in texts if isinstance(text, str) for word in text.split())
            case ast.Import(names=names):
                found.update(name for alias in names for name in _library(alias.name))
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] != "agent":
                found |= _library(module)
    return found


@cache
def _library(module: str) -> frozenset[str]:
    """The names of a module, of what its members have, and of what its and their classes' sources give to a self."""
    loaded = importlib.import_module(module)
    members = list(vars(loaded).values())
    classes = {base for each in members if isinstance(each, type) for base in each.__mro__}
    found = {*module.split("."), *dir(loaded), *(name for each in members for name in dir(each))}
    for name in {module, *(each.__module__ for each in classes)}:
        with contextlib.suppress(OSError, TypeError):  # it is written in C
            found.update(re.findall(r"\bself\.(\w+)", inspect.getsource(importlib.import_module(name))))
    return frozenset(found)


class _Renamer(ast.NodeTransformer):
    def __init__(self, names: Names) -> None:
        self.names, self.modules = names, set[str]()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        for alias in node.names:
            if node.module == "agent":
                self.modules.add(alias.asname or alias.name)
            elif (node.module or "").startswith("agent."):
                short = self.names.globals.get(alias.name, alias.name)
                alias.asname = alias.asname and self.names.globals.get(alias.asname, alias.asname)
                alias.name = short
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        own = isinstance(node.value, ast.Name) and node.value.id in self.modules
        names = self.names.globals if own else self.names.attributes
        node.attr = names.get(node.attr, node.attr)
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.name = self.names.globals.get(node.name, node.name)
        members: list[tuple[ast.FunctionDef | ast.Name, str, str]] = []  # which the visit would take for globals
        for each in node.body:
            if isinstance(each, ast.FunctionDef):
                members.append((each, "name", each.name))
            for target in each.targets if isinstance(each, ast.Assign) else ():
                members += [(leaf, "id", leaf.id) for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]
        self.generic_visit(node)
        for member, field, name in members:
            setattr(member, field, self.names.attributes.get(name, name))
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = self.names.globals.get(node.name, node.name)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self.names.globals.get(node.id, node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self.names.globals.get(node.arg, node.arg)
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        node.name = node.name and self.names.globals.get(node.name, node.name)
        return self.generic_visit(node)

    def visit_Global(self, node: ast.Global) -> ast.AST:
        node.names = [self.names.globals.get(name, name) for name in node.names]
        return node


def main() -> None:
    """Write the table anew."""
    from provisioner.packing.agent_archive import needed_sources

    names = propose(needed_sources())
    _TABLE.write_text(json.dumps(names._asdict(), indent=1) + "\n")


if __name__ == "__main__":
    main()
