"""What is shortened of the agent before it travels."""

import ast
import inspect
import json
import subprocess

import pytest

from provisioner.packing import rename
from provisioner.packing.minify import shake, write_out
from provisioner.packing.sources import needed_sources
from tests.support.interpreters import AGENT_PYTHONS


def test_the_short_names_are_safe():
    """No name is shortened that is looked up by text or passed by keyword, no short form is in use or of two names."""
    nodes, found = nodes_of_the_agent(), rename.short_names()
    passed = {node.arg for node in nodes if isinstance(node, ast.keyword)}
    identifiers = {name for node in nodes for name in rename._identifiers(node)}
    short = [*found.attributes.values(), *found.globals.values()]
    unsafe = {*found.attributes, *found.globals} & ({*rename._looked_up(nodes)} | rename.KEPT)
    assert not unsafe
    assert not passed & set(found.globals)
    assert not {*short} & identifiers
    assert len(short) == len(set(short)), "no two names become one"


@pytest.mark.parametrize("python", AGENT_PYTHONS)
def test_no_library_has_a_name_that_is_shortened(python):
    """On each Python no library that the agent imports, and no builtin, has a name that is shortened, or a short form.

    What differs from the Python that writes the table belongs into `rename.OTHER_PYTHONS`.
    """
    assert python, "this Python was asked for and is not here"
    function = ast.parse(inspect.getsource(rename.library_names)).body[0]
    function.returns = function.args.args[0].annotation = None  # Python 3.6 can't read them
    script = f"{ast.unparse(function)}\nimport json, sys\nprint(json.dumps(list(library_names(sys.argv[1:]))))"
    modules = sorted(rename.imported(nodes_of_the_agent()))
    run = subprocess.run(
        [python, "-I", "-W", "ignore", "-c", script, *modules], capture_output=True, text=True, check=True
    )
    found = rename.short_names()
    ours = {*found.attributes, *found.globals, *found.attributes.values(), *found.globals.values()}
    assert sorted(ours & set(json.loads(run.stdout))) == []


def nodes_of_the_agent():
    """Every node of its sources."""
    return [node for source in needed_sources().values() for node in ast.walk(ast.parse(source))]


def test_attributes_and_globals_are_told_apart():
    """A method, a function of the same name, what a text looks up and what a call names: each as it may be."""
    sources = {
        "agent/a.py": "class Sender:\n  def deliver(self, parcel): self.parcel = parcel\n"
        "  def looked_up(self): pass\ndef deliver(sender, parcel=None): sender.deliver(parcel)\n",
        "agent/b.py": "from agent import a\nfrom agent.a import Sender, deliver\n"
        "def main():\n  deliver(Sender(), parcel=1)\n  a.deliver(Sender())\n  getattr(Sender(), 'looked_up')()\n",
    }
    names = rename.propose(sources)
    assert "looked_up" not in names.attributes
    assert "parcel" in names.attributes
    assert "parcel" not in names.globals
    made = rename.rename(sources, names)
    assert f".{names.globals['deliver']}(" in made["agent/b.py"]
    assert f"def {names.attributes['deliver']}(self, parcel)" in made["agent/a.py"]
    assert f"sender.{names.attributes['deliver']}(parcel)" in made["agent/a.py"]
    assert f"import {names.globals['Sender']}, {names.globals['deliver']}" in made["agent/b.py"]


def test_the_core_has_the_shortest_names():
    """Of two names that could have the same short form, the one that is more frequent in what every VM gets has it."""
    sources = {
        "agent/core.py": "def parcel(): return 1\ndef main(): return parcel()\n",
        "agent/more.py": "def pallet(): return 1\n" + "pallet()\n" * 9,
    }
    assert rename.propose(sources).globals == {"pallet": "p", "parcel": "P"}
    assert rename.propose(sources, ["agent/core.py"]).globals == {"pallet": "P", "parcel": "p"}


def test_what_a_library_gives_its_objects_keeps_its_name():
    """An attribute that a library sets on its own objects is no name of ours, though ours may have it, too."""
    sources = {
        "agent/a.py": "import subprocess\nclass Server:\n  def __init__(self): self.pid = 1\n  def begin(self): pass\n"
        "def main(): return subprocess.Popen('x').pid, Server().begin()\n"
    }
    assert set(rename.propose(sources).attributes) == {"begin"}


def test_constants_are_written_where_they_are_used():
    """A module of constants, and the members of an IntEnum, leave nothing but their values; what nobody uses goes."""
    sources = {
        "agent/layout.py": '"""Text."""\nLOG = "log"\nNAMES = (LOG, "b")\nUNUSED = 1\n',
        "agent/errors.py": "from enum import IntEnum\nclass Code(IntEnum):\n  OK = 0\n  BAD = 7\nSPARE = ('x',)\n",
        "agent/a.py": "from agent import layout\nfrom agent.errors import Code\nfrom agent.layout import NAMES\n"
        "def main(): return layout.LOG + '.txt', '%s/' % layout.LOG, NAMES, Code.BAD\n",
    }
    found = shake(write_out(sources))
    assert "class" not in found["agent/errors.py"]
    assert "import" not in found["agent/errors.py"]
    assert "SPARE" not in found["agent/errors.py"]
    assert "import" not in found["agent/a.py"]
    names: dict[str, object] = {}
    exec(found["agent/a.py"], names)
    assert names["main"]() == ("log.txt", "log/", ("log", "b"), 7)
