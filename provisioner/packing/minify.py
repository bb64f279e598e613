"""Makes Python sources that belong together small, without a change to what they do.

What nothing in the program can notice goes: functions and constants that no code names, the names of parameters that no
call passes by name, those of local variables, docstrings, comments and spaces. Other names stay what they are here;
`provisioner.packing.rename` has made them short before. Messages stay.
"""

from __future__ import annotations

import ast
import builtins
from collections import Counter, defaultdict
from collections.abc import Mapping

import python_minifier

SELF = "Z"  # little else in the sources has this letter, so that it compresses better than S


def shrink(sources: Mapping[str, str]) -> dict[str, str]:
    """Shrink a whole program, its sources by name. It starts with what it does at import, or with a `main`."""
    trees = {name: ast.parse(source) for name, source in shake(sources).items()}
    positional = Positional(list(trees.values()))
    return {name: minify(ast.unparse(Self().visit(positional.visit(tree)))) for name, tree in trees.items()}


def write_out(sources: Mapping[str, str]) -> dict[str, str]:
    """Write constants where they are used: those of modules that hold nothing else, and the members of each IntEnum."""
    trees = {name: ast.parse(source) for name, source in sources.items()}
    modules = {_module(name): found for name, tree in trees.items() if (found := _constants(tree.body)) is not None}
    enums = {
        node.name: _constants(node.body) or {}
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and [ast.unparse(base) for base in node.bases] == ["IntEnum"]
    }
    return {
        name: source if _module(name) in modules else ast.unparse(Constants(modules, enums).visit(trees[name]))
        for name, source in sources.items()
    }


def _module(name: str) -> str:
    return name.removesuffix(".py").replace("/", ".")


def _constants(body: list[ast.stmt]) -> dict[str, ast.expr] | None:
    """The constants of a module or class that holds nothing else, by name; None of any other."""
    found: dict[str, ast.expr] = {}
    for node in body:
        match node:
            case ast.Expr(value=ast.Constant()):
                continue
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found[name] = Constants({}, {}, found).visit(value)
                if not all(isinstance(leaf, ast.Constant | ast.Tuple | ast.Load) for leaf in ast.walk(found[name])):
                    return None
            case _:
                return None
    return found


class Constants(ast.NodeTransformer):
    """Writes constants in place of their names: of `modules`, by their names, and of `enums`, by theirs."""

    def __init__(
        self,
        modules: Mapping[str, Mapping[str, ast.expr]],
        enums: Mapping[str, Mapping[str, ast.expr]],
        names: Mapping[str, ast.expr] | None = None,
    ) -> None:
        """Begin with constants whose names are those of `names`."""
        self.modules, self.enums = modules, dict(enums)
        self.names = dict(names or {})

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        """Take in the constants that are imported, and drop their import."""
        kept = []
        for alias in node.names:
            name = alias.asname or alias.name
            if node.module and node.module in self.modules:
                self.names[name] = self.modules[node.module][alias.name]
            elif f"{node.module}.{alias.name}" in self.modules:
                self.enums[name] = self.modules[f"{node.module}.{alias.name}"]
            elif alias.name not in {*self.enums, "IntEnum"}:  # of which no class is left
                kept.append(alias)
        node.names = kept
        return node if kept else None

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Write out a member of an enum, or of a module."""
        if isinstance(node.value, ast.Name) and node.attr in self.enums.get(node.value.id, ()):
            return self.enums[node.value.id][node.attr]
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Write out what is made of constant texts."""
        self.generic_visit(node)
        match node:
            case ast.BinOp(ast.Constant(str(left)), ast.Add(), ast.Constant(str(right))):
                return ast.Constant(left + right)
            case ast.BinOp(ast.Constant(str(left)), ast.Mod(), ast.Constant(str() | int() as right)):
                return ast.Constant(left % right)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Write out a constant."""
        return self.names.get(node.id, node) if isinstance(node.ctx, ast.Load) else node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST | None:
        """Drop an enum, of which nothing is left to say."""
        return None if node.name in self.enums and node.body else self.generic_visit(node)


def shake(sources: Mapping[str, str]) -> dict[str, str]:
    """Drop every top-level function and constant that nothing else in `sources` names.

    Those are what only the operator's side uses.
    """
    trees = {name: ast.parse(source) for name, source in sources.items()}
    named = sum((_names(tree) for tree in trees.values()), Counter[str]())
    droppable = [
        (module, name, node, _names(node))
        for module, tree in trees.items()
        for node in tree.body
        if (name := _defined(node)) and name != "main" and _alone(node, tree)
    ]
    lines = {name: source.splitlines(keepends=True) for name, source in sources.items()}
    while True:
        unused = next((each for each in droppable if named[each[1]] == each[3][each[1]]), None)
        if unused is None:
            return {name: "".join(kept) for name, kept in lines.items()}
        droppable.remove(unused)
        module, _, node, uses = unused
        named -= uses
        for number in range(node.lineno - 1, node.end_lineno or node.lineno):
            lines[module][number] = ""


def _defined(node: ast.stmt) -> str:
    """The name that a statement defines and does nothing else; empty for any other statement."""
    match node:
        case ast.FunctionDef(name=name):
            return name
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant() | ast.Tuple()) if not name.startswith("__"):
            return name
    return ""


def _alone(node: ast.stmt, tree: ast.Module) -> bool:
    """Tell whether no other statement shares a line with this one."""
    return not any(
        other is not node and other.lineno <= (node.end_lineno or 0) and node.lineno <= (other.end_lineno or 0)
        for other in tree.body
    )


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
        nodes = [node for tree in trees for node in ast.walk(tree)]
        definitions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        defined = {node.name for node in definitions}
        self.makers = {node.name for node in definitions if _makes(node)}
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
        elif name not in _METHODS and (getattr(root, "id", "") not in foreign or name == "partial"):
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
            named = named.union(*(self.by_function[name] for name in self.makers))
        while node.args.args and node.args.args[0].arg not in named:
            node.args.posonlyargs.append(node.args.args.pop(0))
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        """Mark the parameters of a lambda: who calls something that isn't known by name may name them."""
        self.generic_visit(node)
        while node.args.args and node.args.args[0].arg not in self.everywhere:
            node.args.posonlyargs.append(node.args.args.pop(0))
        return node


class Self(ast.NodeTransformer):
    """Gives `self` the same one-letter name everywhere: that compresses better than a letter for each function."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Rename a use."""
        node.id = SELF if node.id == "self" else node.id
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Rename a parameter."""
        node.arg = SELF if node.arg == "self" else node.arg
        return node


def _makes(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Tell whether a definition is a class, or a function that hands on keywords, maybe to a class."""
    if isinstance(node, ast.ClassDef):
        return True
    calls = (keyword for call in ast.walk(node) if isinstance(call, ast.Call) for keyword in call.keywords)
    return node.args.kwarg is not None and any(keyword.arg is None for keyword in calls)


# Of builtins, and of named tuples. What the program itself defines was looked for before.
_METHODS = {name for each in (dict, list, set, str, bytes, bytearray) for name in dir(each)} | {"_replace"}


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
        preserve_locals=["__class__", SELF],
    )
    return text
