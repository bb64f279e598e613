"""The archive that every VM gets."""

import ast
import bz2
import io
import itertools
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from agent import __version__
from provisioner import agentapp
from provisioner.agentapp import agent_tar
from provisioner.resources import agent_sources
from provisioner.shrink import minify, shake, shrink
from tests.faults.kit import gather, reader, real_grant, write_grant
from tests.interpreters import AGENT_PYTHONS

ROOT = Path(__file__).parents[2]
EXTRAS = (agentapp.FOR_BUNDLES, agentapp.FOR_INPUTS, agentapp.FOR_SCRIPTS, agentapp.FOR_TLS, agentapp.FOR_USERS)
EVERY = frozenset(itertools.chain(*EXTRAS))
MODULES = sorted(name for name in agent_sources() if name != "agent/__main__.py")


def pack(tmp_path, extra=EVERY):
    """Unpack the archive."""
    with tarfile.open(fileobj=io.BytesIO(agent_tar(extra))) as archive:
        archive.extractall(tmp_path / "app")
    return tmp_path / "app"


def run(python, *argv, cwd):
    """Run an interpreter that sees neither environment nor user packages, with warnings as errors."""
    assert python, "this Python was asked for and is not here"
    return subprocess.run(
        [python, "-I", "-W", "error", *map(str, argv)], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_it_is_reproducible():
    """The same sources give the same bytes: fixed time, mode and order."""
    first = agent_tar()
    agent_tar.cache_clear()
    assert agent_tar() == first
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        infos = archive.getmembers()
    names = [info.name for info in infos]
    assert names == [*(f"agent/{name}.py" for name in agentapp.ALWAYS), "__main__.py"]
    assert {(info.mtime, info.mode, info.uid, info.uname) for info in infos} == {(0, 0o644, 0, "")}


def test_hash_seeds_do_not_show():
    """Processes with different hash seeds pack the same bytes."""
    program = "import sys; from provisioner.agentapp import agent_tar; sys.stdout.buffer.write(agent_tar())"
    packed = [
        subprocess.run([sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, stdout=-1, check=True, cwd=ROOT)
        for seed in ("1", "2")
    ]
    assert {process.stdout for process in packed} == {agent_tar()}


def test_what_travels_is_the_archive():
    """The compressed form holds the very bytes of the archive, in a format that every `bz2` opens."""
    assert bz2.decompress(agentapp.packed(EVERY)) == agent_tar(EVERY)
    assert len(agentapp.packed()) < len(agentapp.packed(EVERY))


def test_shake_drops_only_what_nobody_names():
    """A function that no other code names goes, then what only it named; what is named from elsewhere stays."""
    sources = {
        "agent/a.py": "def used(): pass\n\ndef alone(): return only_by_alone()\n\ndef only_by_alone(): return alone\n"
        "def unnamed(): return helper()\ndef helper(): pass\n",
        "agent/b.py": "from agent import a\na.used()\n",
    }
    kept = shake(sources)
    functions = [node.name for node in ast.walk(ast.parse(kept["agent/a.py"])) if isinstance(node, ast.FunctionDef)]
    assert functions == ["used", "alone", "only_by_alone"]  # a ring names itself: kept, to be on the safe side
    assert kept["agent/b.py"] == sources["agent/b.py"]


def test_only_parameters_that_no_call_names_lose_their_names():
    """What a call passes by name keeps it, for functions of that name, for classes, and for what isn't known."""
    sources = {
        "agent/a.py": "def made(where, count, until=0): return where, count, until\n"
        "class Thing:\n  def __init__(self, place, size=0): self.both = place, size\n"
        "def known(first): return first\n",
        "agent/b.py": "import os\nfrom agent.a import Thing, known, made\n"
        "def main(call=known):\n  os.stat('/', dir_fd=None)\n"
        "  return made(1, 2, until=3), Thing(4, size=5).both, call(first=6)\n",
    }
    small = shrink(sources)
    arguments = {
        node.name: [argument.arg for argument in node.args.args]
        for node in ast.walk(ast.parse(small["agent/a.py"]))
        if isinstance(node, ast.FunctionDef)
    }
    assert arguments["made"][2] == "until"
    assert not {"where", "count"} & set(arguments["made"])
    assert arguments["__init__"][2] == "size"
    assert arguments["known"] == ["first"]
    compiled: dict[str, object] = {}
    exec(small["agent/a.py"], compiled)
    exec(small["agent/b.py"].replace("from agent.a import Thing,known,made", ""), compiled)
    assert compiled["main"]()[:3] == ((1, 2, 3), (4, 5), 6)


def test_what_travels_pushes(tmp_path, s3, bucket):
    """The small form does what the sources do: it stores files, bundled, split and streamed."""
    app, tree = pack(tmp_path), tmp_path / "tree"
    tree.mkdir()
    for number in range(5):
        (tree / f"small {number}").write_bytes(os.urandom(1000))
    (tree / "large").write_bytes(os.urandom(3 << 20))
    grant = real_grant(s3, bucket)
    path = write_grant(tmp_path, grant)
    for words in (["--bundle", "tree"], ["--split-over", "1M", "--as", "parts", "tree/large"], ["--as", "stream", "-"]):
        process = subprocess.run(
            [sys.executable, "-EsS", app / "__main__.py", "push", "--grant", path, *words],
            cwd=tmp_path,
            input=b"streamed",
            capture_output=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
    found, _ = gather(reader(s3, bucket), grant)
    assert found[b"stream"] == b"streamed"
    assert found[b"parts"] == found[b"tree/large"] == (tree / "large").read_bytes()
    assert len(found) == 8


@pytest.mark.parametrize("python", AGENT_PYTHONS)
@pytest.mark.parametrize("extra", [(), *EXTRAS, EVERY], ids=lambda extra: "+".join(sorted(extra)) or "least")
def test_every_module_of_it_can_be_imported(python, extra, tmp_path):
    """On each Python, whatever rides along: no syntax is too new, and no module lacks another that it starts with."""
    app = pack(tmp_path, frozenset(extra))
    program = (
        "import sys, os, importlib\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "for name in os.listdir(sys.argv[1] + '/agent'):\n"
        "    if name.endswith('.py'):\n"
        "        importlib.import_module('agent.' + name[:-3])\n"
    )
    done = run(python, "-c", program, app, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("python", AGENT_PYTHONS)
def test_it_answers_help_and_version(python, tmp_path):
    """The archive alone tells its usage and version, on standard output as any program does that is asked for them."""
    app = pack(tmp_path)
    for word, said in (("--help", "push"), ("-h", "push"), ("--version", f"agent {__version__}\n")):
        done = run(python, app, word, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout


@pytest.mark.parametrize("word", ["--version", "-h", "push"])
def test_a_vm_without_the_commands_says_so(word, tmp_path):
    """Where only `agent run` travelled, any other word is answered by a sentence and exit code 2."""
    done = run(sys.executable, pack(tmp_path, frozenset()), word, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "agent: job.yaml doesn't mention `agent`, so it is not in this VM\n"


@pytest.mark.parametrize("name", MODULES)
def test_what_others_see_keeps_its_name(name):
    """Small as it is made, a module's own names, its classes' and its messages are those of the repository."""

    def seen(source):
        tree = ast.parse(source)
        names, texts = set(), set()
        for owner in (tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))):
            for node in owner.body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    names.add(node.name)
                elif isinstance(node, ast.Assign):
                    names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue  # a docstring
            texts.update(
                child.value
                for child in ast.iter_child_nodes(node)
                if isinstance(child, ast.Constant) and isinstance(child.value, str)
            )
        return names, texts

    source = agent_sources()[name].decode()
    assert seen(minify(source)) == seen(source)


@pytest.mark.parametrize("name", MODULES)
def test_no_prose_travels(name):
    """Comments and docstrings stay at home."""
    small = minify(agent_sources()[name].decode())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(ast.parse(small)) if isinstance(node, documented)]
    assert not [ast.get_docstring(node) for node in nodes if ast.get_docstring(node)]
    assert not [line for line in small.splitlines() if line.lstrip().startswith("#")]
