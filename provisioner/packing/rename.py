"""Gives a program's own names a short form, the same in all of its modules: a letter or two of each.

The short forms are in ``short_names.json``, not chosen when the agent is packed, because the choice depends on the
Python that makes it and the packed bytes must not. ``python -m provisioner.packing.rename`` writes it anew after the
agent has changed; a name that isn't in it merely stays long.

Why this is safe: only the agent's own sources are rewritten, so a name means something else only if the agent itself
also uses a library's attribute of that name, or a class of the agent inherits from a library's. Therefore no name is
shortened, and no short form is chosen, that a library which the agent imports or a builtin has; a test looks through
the libraries of every Python that the agent runs on, and the packed agent runs on each. A name that some
call passes by keyword is never shortened as a global, and names that are looked up by text (`getattr`, the fields of a
namedtuple) stay.

How to read a traceback of a packed agent: its lines are those of the packed files in the VM, in
``/usr/local/lib/freepost/agent``, so that module and statement are plain; ``short_names.json`` of the same version says
what a short attribute, method or function stands for (each short form is that of one name), and local variables have
letters that `python_minifier` gave them: read these by what is assigned to them.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

# Names that are looked up from outside: `main` by __main__.py, the others where a test runs what is packed.
KEPT = frozenset({"main", "complete", "replace"})
# Names that libraries of Pythons before or after that which writes the table have: of 3.6 to 3.10, and 3.12 on.
OTHER_PYTHONS = frozenset({"clock", "e", "fn", "ge", "gt", "i", "le", "lt", "ne"})
_TABLE = Path(__file__).with_name("short_names.json")
_LOOKUPS = {"getattr", "hasattr", "setattr", "namedtuple"}


class Names(NamedTuple):
    """Short forms by name: of attributes and methods, and of what modules define."""

    attributes: Mapping[str, str]
    globals: Mapping[str, str]


@lru_cache(maxsize=1)
def short_names() -> Names:
    """Return the table of short names."""
    return Names(**json.loads(_TABLE.read_text()))


def rename(sources: Mapping[str, str], names: Names) -> dict[str, str]:
    """Rename within a whole program, its sources by name."""
    return {name: ast.unparse(_Renamer(names).visit(ast.parse(source))) for name, source in sources.items()}


def propose(sources: Mapping[str, str], core: Collection[str] = ()) -> Names:
    """Choose short names for a program, on the Python that runs this.

    The shortest are for the names that are most frequent in `core`, some of the sources, which every VM gets.
    """
    trees = [ast.parse(source) for source in sources.values()]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    modules = {part for name in sources for part in re.split(r"\W", name)}
    foreign, passed = _foreign(nodes), {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg}
    identifiers = Counter(name for node in nodes for name in _identifiers(node))
    in_core = (node for name in core for node in ast.walk(ast.parse(sources[name])))
    urgent = Counter(name for node in in_core for name in _identifiers(node))
    taken = {*KEPT, *modules, *foreign, *identifiers}
    own = {name for tree in trees for name in _attributes(tree)} - foreign - KEPT
    attributes = _choose(own, urgent, identifiers, taken)
    taken |= set(attributes.values())
    defined = {name for tree in trees for name in _globals(tree)} - foreign - KEPT - modules - passed
    return Names(attributes, _choose(defined, urgent, identifiers, taken))


def _choose(
    names: Iterable[str], urgent: Mapping[str, int], counts: Mapping[str, int], taken: Collection[str]
) -> dict[str, str]:
    """Give each name the first short form that is free: the most frequent first, by `urgent` and then by `counts`."""
    used, chosen = set(taken), {}
    for name in sorted(names, key=lambda name: (-urgent[name], -counts[name], name)):
        free = (each for each in _candidates(name) if each not in used and not keyword.iskeyword(each))
        short = next(free, name)
        if len(short) < len(name):
            used.add(short)
            chosen[name] = short
    return dict(sorted(chosen.items()))


def _candidates(name: str) -> Iterator[str]:
    """Short forms of a name, in the order to try them in: its first letter, that with another of its letters, more."""
    letters = name.replace("_", "")
    yield letters[0]
    yield letters[0].upper()
    yield from (letters[0] + each for each in letters[1:])
    yield from (letters[:length] for length in range(3, len(letters)))


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
    return {*OTHER_PYTHONS, *_looked_up(nodes), *library_names(sorted(imported(nodes)))}


def _looked_up(nodes: list[ast.AST]) -> Iterator[str]:
    """The words of texts by which something is looked up."""
    for node in nodes:
        match node:
            case ast.Call(func=ast.Name(id=called), args=arguments) if called in _LOOKUPS:
                texts = [each.value for each in arguments if isinstance(each, ast.Constant)]
                yield from (word for text in texts if isinstance(text, str) for word in text.split())


def imported(nodes: list[ast.AST]) -> set[str]:
    """The modules that a program imports, but for its own."""
    found = {"builtins"}
    for node in nodes:
        match node:
            case ast.Import(names=names):
                found.update(alias.name for alias in names)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] != "agent":
                found.add(module)
    return found


def library_names(modules: list[str]) -> set[str]:
    """The names of modules, of what their members have, and of what their and their classes' sources give to a self.

    By itself, and in the words of Python 3.6: a test runs it on every Python that the agent knows.
    """
    import importlib
    import inspect
    import pkgutil
    import re

    found: set[str] = set()
    for module in modules:
        loaded = importlib.import_module(module)
        members = list(vars(loaded).values())
        found.update(module.split("."), *(dir(each) for each in [loaded, *members]))
        for each in [loaded, *members]:
            if inspect.ismodule(each):  # a package has its modules only after they were imported
                found.update(name for _, name, _ in pkgutil.iter_modules(getattr(each, "__path__", ())))
        classes = {base for each in members if isinstance(each, type) for base in each.__mro__}
        for name in {module, *(each.__module__ for each in classes)}:
            try:
                source = inspect.getsource(importlib.import_module(name))
            except (ImportError, OSError, TypeError):  # it is written in C
                continue
            found.update(re.findall(r"\bself\.(\w+)", source))
    return found


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
    from provisioner.packing.sources import CORE, needed_sources  # which only this has a use for, not each launch

    names = propose(needed_sources(), [f"agent/{name}.py" for name in CORE])
    _TABLE.write_text(json.dumps(names._asdict(), indent=1) + "\n")


if __name__ == "__main__":
    main()
