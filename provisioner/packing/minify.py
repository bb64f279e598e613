"""Makes Python sources that belong together small, without a change to what they do.

What only comments, checkers and callers outside could see goes: functions that nobody names, the names of parameters
that nobody passes by name, those of local variables, docstrings and spaces. Functions, classes, attributes and
messages keep their names, so the result can still be read, and a traceback names the function.
"""

from __future__ import annotations

import ast
import builtins
from collections import Counter, defaultdict
from collections.abc import Mapping

import python_minifier


def shrink(sources: Mapping[str, str]) -> dict[str, str]:
    """Shrink a whole program, its sources by name. It starts with what it does at import, or with a `main`."""
    trees = {name: ast.parse(source) for name, source in shake(sources).items()}
    positional = Positional(list(trees.values()))
    return {name: minify(ast.unparse(positional.visit(tree))) for name, tree in trees.items()}


def shake(sources: Mapping[str, str]) -> dict[str, str]:
    """Drop every top-level function that nothing else in `sources` names: what only the operator's side calls."""
    trees = {name: ast.parse(source) for name, source in sources.items()}
    named = sum((_names(tree) for tree in trees.values()), Counter[str]())
    functions = [
        (name, node, _names(node))
        for name, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    ]
    lines = {name: source.splitlines(keepends=True) for name, source in sources.items()}
    while True:
        alone = (each for each in functions if named[each[1].name] == each[2][each[1].name] and each[1].name != "main")
        unused = next(alone, None)
        if unused is None:
            return {name: "".join(kept) for name, kept in lines.items()}
        functions.remove(unused)
        name, node, uses = unused
        named -= uses
        for number in range(node.lineno - 1, node.end_lineno or node.lineno):
            lines[name][number] = ""


def _names(tree: ast.AST) -> Counter[str]:
    """Count every identifier that a tree uses."""
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found[node.id] += 1
        elif isinstance(node, ast.Attribute):
            found[node.attr] += 1
        elif isinstance(node, ast.ImportFrom):
            found.update(alias.name for alias in node.names)
    return found


class Positional(ast.NodeTransformer):
    """Marks as positional-only, so that `minify` may rename them, the parameters that no call names.

    Calls are matched by the function's bare name, whatever it is an attribute of. A call of something that is neither
    defined in the program nor a builtin or of an imported module protects the names it uses everywhere.
    """

    def __init__(self, trees: list[ast.Module]) -> None:
        """Look at every call of the program."""
        self.by_function: defaultdict[str, set[str]] = defaultdict(set)
        self.everywhere: set[str] = set()
        self.owner = ""
        defined = {
            node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        for tree in trees:
            foreign = _foreign(tree)
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and node.keywords:
                    self._call(node, defined, foreign)

    def _call(self, node: ast.Call, defined: set[str], foreign: set[str]) -> None:
        called, root = node.func, node.func
        while isinstance(root, ast.Attribute):
            root = root.value
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        words = {keyword.arg for keyword in node.keywords if keyword.arg}
        if name in defined:
            self.by_function[name] |= words
        elif getattr(root, "id", "") not in foreign or name == "partial":
            self.everywhere |= words

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Remember whose methods these are."""
        outer, self.owner = self.owner, node.name
        self.generic_visit(node)
        self.owner = outer
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Mark the parameters of one function, up to the first that a call names."""
        self.generic_visit(node)
        named = self.by_function[node.name] | self.everywhere
        if node.name == "__init__":  # called by the class's name or a subclass's, which may hand on any keyword
            named = named.union(*self.by_function.values())
        while node.args.args and node.args.args[0].arg not in named:
            node.args.posonlyargs.append(node.args.args.pop(0))
        return node


def _foreign(tree: ast.Module) -> set[str]:
    """The names in a module that are none of the program's own: builtins, and what comes from other modules."""
    found = set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("agent"):
            found.update(alias.asname or alias.name for alias in node.names)
    return found


def minify(source: str) -> str:
    """Return Python source that does the same in fewer bytes. Positional-only marks, new in Python 3.8, are undone."""
    text: str = python_minifier.minify(
        source,
        remove_literal_statements=True,
        rename_locals=True,
        rename_globals=False,
        hoist_literals=False,
        convert_posargs_to_args=True,
        preserve_locals=["__class__"],
    )
    return text
