"""YAML that remembers where each value stood, so that a fault can name its line.

Stricter than YAML 1.1 where that surprises people: a duplicate key and a key that isn't a string are faults; dates,
``1:30`` and ``0644`` are strings; no tag but the plain ones is known, so no document can make Python objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import yaml

MAX_BYTES = 4 * 1024 * 1024  # a job.yaml is written by hand; files belong in `run.files` and `inputs`

_TAG = "tag:yaml.org,2002:"


class Mark(NamedTuple):
    """Where a value came from: ``job.yaml:12`` or ``--set run.timeout``, and a scalar's text as it was written."""

    origin: str
    raw: str


class MarkedDict(dict[str, Any]):
    """A mapping that knows where the value of each key came from."""

    marks: dict[str | int, Mark]


class MarkedList(list[Any]):
    """A list that knows where each of its items came from."""

    marks: dict[str | int, Mark]


# Called with: origin, path to the key, what was found, what is allowed.
Complain = Callable[[str, str, str, str], None]


class _Loader(yaml.SafeLoader):
    """Only composes nodes; `_Builder` makes the values."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own interface: an empty one drops the inherited resolvers


def _resolve(kind: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(_TAG + kind, re.compile(pattern), list(first))


_resolve("bool", r"^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$", "yYnNtTfFoO")
_resolve("int", r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$", "-+0123456789")
_resolve("float", r"^[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789.")
_resolve("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+.")
_resolve("null", r"^(?:~|null|Null|NULL|)$", "~nN")
_Loader.add_implicit_resolver(_TAG + "null", re.compile(r"^$"), [""])  # PyYAML looks an empty scalar up under ""
_resolve("merge", r"^(?:<<)$", "<")


def load(text: str, *, where: str, complain: Complain, lines: bool = True) -> object:
    """Read one YAML document. Each fault goes to `complain`; None when the text is no YAML at all.

    `where` starts each fault; with `lines` it is a file's name and the line follows.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        return _Builder(where, complain, lines=lines).build(node, "") if node else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark and lines else where
        complain(at, "", *_explain(error))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        complain(f"{where}:{line}" if lines else where, "", f"the character {error.character:#06x}", "printable text")
    except RecursionError:
        complain(where, "", "lists or mappings nested too deeply", "a job, which is four levels deep")
    return None


def _explain(error: yaml.MarkedYAMLError) -> tuple[str, str]:
    problem = (error.problem or "text that is not YAML").strip()
    if "'\\t'" in problem:
        return "a tab in the indentation", "spaces: YAML indents with spaces only"
    if "another document" in problem or "single document" in (error.context or ""):
        return "a second document (`---`)", "one job a file"
    context = f", {error.context}" if error.context else ""
    return f"broken YAML ({problem}{context})", "YAML: `key: value` lines, text with special characters in quotes"


class _Builder:
    """Turns nodes into values, each node once: an alias costs nothing, however often it is repeated."""

    def __init__(self, where: str, complain: Complain, *, lines: bool) -> None:
        self._where, self._complain, self._lines = where, complain, lines
        self._done: dict[int, object] = {}
        self._open: set[int] = set()

    def _origin(self, node: yaml.Node) -> str:
        return f"{self._where}:{node.start_mark.line + 1}" if self._lines else self._where

    def build(self, node: yaml.Node, path: str) -> object:
        if id(node) in self._open:
            self._complain(
                self._origin(node), path, "an alias to something that it is part of", "aliases to other parts"
            )
            return None
        if id(node) not in self._done:
            self._open.add(id(node))
            self._done[id(node)] = self._make(node, path)
            self._open.discard(id(node))
        return self._done[id(node)]

    def _make(self, node: yaml.Node, path: str) -> object:
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return self._sequence(node, path)
        if isinstance(node, yaml.ScalarNode):
            try:
                return _scalar(node.tag.removeprefix(_TAG), node.value)
            except (ValueError, KeyError):
                pass  # falls through to the complaint below
        tag = node.tag.replace(_TAG, "!!")
        self._complain(self._origin(node), path, f"the tag {tag}", "plain values without a tag")
        return None

    def _sequence(self, node: yaml.SequenceNode, path: str) -> MarkedList:
        made = MarkedList(self.build(item, f"{path}[{index}]") for index, item in enumerate(node.value))
        made.marks = {index: self._mark(item, item) for index, item in enumerate(node.value)}
        return made

    def _mapping(self, node: yaml.MappingNode, path: str) -> MarkedDict:
        made, merged = MarkedDict(), MarkedDict()
        made.marks, merged.marks = {}, {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                self._merge(value_node, path, merged)
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            inner = f"{path}.{key}" if path else key
            if key in made:
                first = made.marks[key].origin
                self._complain(self._origin(key_node), inner, f"the key again (first at {first})", "each key once")
            made[key] = self.build(value_node, inner)
            made.marks[key] = self._mark(key_node, value_node)
        for key, value in merged.items():
            if key not in made:
                made[key], made.marks[key] = value, merged.marks[key]
        return made

    def _merge(self, node: yaml.Node, path: str, into: MarkedDict) -> None:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            value = self.build(source, path)
            if not isinstance(value, MarkedDict):
                self._complain(
                    self._origin(source), path, "`<<` with something else", "`<<` with an alias to a mapping"
                )
                continue
            for key, item in value.items():
                if key not in into:  # of several sources, the first wins (YAML's merge key)
                    into[key], into.marks[key] = item, value.marks[key]

    def _key(self, node: yaml.Node, path: str) -> str | None:
        if isinstance(node, yaml.ScalarNode):
            if node.tag == _TAG + "str":
                return str(node.value)
            found = f"the key `{node.value[:40]}`, which YAML reads as {node.tag.removeprefix(_TAG)}"
        else:
            found = "a list or mapping as a key"
        self._complain(self._origin(node), path, found, "text as a key (quote it)")
        return None

    def _mark(self, at: yaml.Node, value: yaml.Node) -> Mark:
        return Mark(self._origin(at), value.value if isinstance(value, yaml.ScalarNode) else "")


def _scalar(kind: str, text: str) -> object:
    if kind == "int":
        return int(text.replace("_", ""), 0)
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if kind == "bool":
        return yaml.SafeLoader.bool_values[text.lower()]
    return {"str": text, "null": None}[kind]
