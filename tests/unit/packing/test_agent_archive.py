"""The archives that VMs get of the agent."""

import ast
import bz2
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent import __version__
from agent.layout import ARCHIVE_MARK
from provisioner.packing import agent_archive
from provisioner.packing.minify import minify, shake, shrink
from provisioner.resources import agent_sources
from tests.support import unmeasured
from tests.support.grants import gather, reader, real_grant, write_grant
from tests.support.interpreters import AGENT_PYTHONS
from tests.support.packed import files, unpack

ROOT = Path(__file__).parents[3]
MODULES = sorted(name for name in agent_sources() if name != "agent/__main__.py")
# What VMs get: in the user-data alone, or in two stages.
SETS = {
    "core": (frozenset(), False),
    "users": (frozenset((*agent_archive.FOR_USERS, *agent_archive.FOR_BUNDLES)), False),
    "root": (frozenset((*agent_archive.FOR_ROOT, *agent_archive.FOR_BUNDLES)), False),
    "spot and renewal": (frozenset((*agent_archive.FOR_SPOT, *agent_archive.FOR_RENEWAL)), False),
    **{"+".join(("core", *sorted(parts))) + ", rest" * more: (parts, more) for parts, more in agent_archive.common()},
}


def pack(tmp_path, parts=None, *, more=False):
    """Pack the agent and unpack it as a VM does, in both stages; the whole of it if no parts are named."""
    app = unpack(agent_archive.packed(agent_archive.whole() if parts is None else parts, more=more), tmp_path / "app")
    if more:
        unpack(agent_archive.rest(), app / "agent")
    return app


def run(python, *argv, cwd):
    """Run an interpreter that sees neither environment nor user packages, with warnings as errors."""
    assert python, "this Python was asked for and is not here"
    return subprocess.run(
        [python, "-I", "-W", "error", *map(str, argv)], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_it_is_reproducible(tmp_path, monkeypatch):
    """The same sources give the same bytes, kept or made anew: fixed order."""
    first = agent_archive.packed(), agent_archive.rest()
    monkeypatch.setenv("FREEPOST_CACHE_DIR", str(tmp_path))
    for each in (agent_archive.packed, agent_archive.rest, agent_archive.minified):
        each.cache_clear()
    assert (agent_archive.packed(), agent_archive.rest()) == first
    assert list(files(first[0])) == [*(f"agent/{name}.py" for name in agent_archive.CORE), "__main__.py"]
    assert list(files(first[1]))[-1] == "compose.py", "its presence says that all of it is there"


def test_hash_seeds_do_not_show(tmp_path):
    """Processes with different hash seeds pack the same bytes."""
    program = (
        "import sys; from provisioner.packing.agent_archive import packed, rest\n"
        "for data in (packed(), packed(more=True), rest()): sys.stdout.buffer.write(data)"
    )
    packed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "FREEPOST_CACHE_DIR": str(tmp_path / seed)},
            stdout=-1,
            check=True,
            cwd=ROOT,
        ).stdout
        for seed in ("1", "2")
    }
    assert packed == {agent_archive.packed() + agent_archive.packed(more=True) + agent_archive.rest()}


def test_packing_costs_a_launch_nothing(tmp_path, monkeypatch):
    """What was packed once is kept by the hash of the sources: the next launch makes nothing small again."""
    monkeypatch.setenv("FREEPOST_CACHE_DIR", str(tmp_path))
    program = (
        "import sys; from provisioner.packing.agent_archive import packed, rest; packed(more=True); rest();"
        "print(*({'python_minifier', 'provisioner.packing.minify'} & set(sys.modules)))"
    )
    loaded = [
        subprocess.run(
            [sys.executable, "-c", program], stdout=-1, text=True, check=True, cwd=ROOT, env=unmeasured.environment()
        ).stdout.split()
        for _ in range(2)
    ]
    assert sorted(loaded[0]) == ["provisioner.packing.minify", "python_minifier"]
    assert loaded[1] == []


@pytest.mark.parametrize("state", ["a file where the cache's folder would be", "a folder that can't be written"])
def test_no_cache_ends_a_launch(tmp_path, monkeypatch, state):
    """A cache is a convenience: where there can be none, the agent is packed each time."""
    first = agent_archive.rest()
    if state.startswith("a file"):
        tmp_path.joinpath("agent").write_text("")
    else:
        (tmp_path / "agent").symlink_to("/proc/self")
    monkeypatch.setenv("FREEPOST_CACHE_DIR", str(tmp_path))
    agent_archive.rest.cache_clear()
    assert agent_archive.rest() == first


def test_a_wheel_holds_what_every_launch_needs(tmp_path, monkeypatch):
    """What is made for a wheel is used in place of a cache, as long as it is of these sources."""
    agent_archive.build(tmp_path / "agent")
    monkeypatch.setattr(agent_archive.resources, "built_agent", lambda name: (tmp_path / "agent" / name).read_bytes())
    monkeypatch.setattr(agent_archive, "cache_dir", lambda: pytest.fail("the wheel has it"))
    for each in (agent_archive.packed, agent_archive.rest, agent_archive.minified):
        each.cache_clear()
    for parts, more in agent_archive.common():
        assert agent_archive.packed(parts, more=more)[:3] == b"BZh"
    assert agent_archive.rest()[:3] == b"BZh"
    (tmp_path / "agent/sources").write_text("of others")
    agent_archive.rest.cache_clear()
    with pytest.raises(pytest.fail.Exception, match="the wheel has it"):
        agent_archive.rest()
    agent_archive.rest.cache_clear()


def test_the_core_runs_jobs_and_the_rest_is_what_jobs_call():
    """In two stages a VM gets every module but those that others need to start at all; the first stage is smaller."""
    first, second = list(files(agent_archive.packed(more=True))), list(files(agent_archive.rest()))
    everything = {f"{name}.py" for name in agent_archive.modules()}
    assert {Path(name).name for name in first} & set(second) == set()
    left = everything - {Path(name).name for name in first} - set(second)
    assert left == {"launch_group.py", "put_upload.py", "remote_grant.py"}
    assert len(agent_archive.packed(more=True)) < len(agent_archive.packed(agent_archive.whole())) / 1.8
    assert bz2.decompress(agent_archive.rest())


def test_the_launcher_knows_what_separates_the_files():
    """The launcher, which can import nothing yet, splits the archive where the agent's layout says."""
    (mark,) = re.findall(r"\.read\(\)\.split\((.*?)\)", (ROOT / "templates/agent.sh").read_text())
    assert ast.literal_eval(mark) == ARCHIVE_MARK


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
@pytest.mark.parametrize("chosen", SETS)
def test_every_module_of_it_can_be_imported(python, chosen, tmp_path):
    """On each Python, whatever rides along: no syntax is too new, and no module lacks another that it starts with."""
    parts, more = SETS[chosen]
    app = pack(tmp_path, parts, more=more)
    program = (
        "import sys, os, importlib\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "for name in os.listdir(sys.argv[1] + '/agent'):\n"
        "    if name.endswith('.py'):\n"
        "        importlib.import_module('agent.' + name[:-3])\n"
    )
    done = run(python, "-c", program, app, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("chosen", SETS)
def test_no_module_names_what_is_not_there(chosen, tmp_path):
    """What modules take from each other is there, in whichever stage it comes: no function was dropped that is used."""
    parts, more = SETS[chosen]
    app = pack(tmp_path, parts, more=more)
    there = {path.stem: ast.parse(path.read_text()) for path in (app / "agent").glob("*.py")}
    defined = {
        name: {
            *(node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))),
            *(leaf.id for node in tree.body for leaf in ast.walk(node) if isinstance(leaf, ast.Name)),
            *(
                alias.asname or alias.name
                for node in ast.walk(tree)
                if isinstance(node, (ast.Import, ast.ImportFrom))
                for alias in node.names
            ),
        }
        for name, tree in there.items()
    }
    missing = {
        (name, node.module, alias.name)
        for name, tree in there.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("agent.") and node.module[6:] in there
        for alias in node.names
        if alias.name not in defined[node.module[6:]]
    }
    assert missing == set()


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
    assert done.stderr == "agent: this VM has only what runs its job\n"


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


@pytest.mark.parametrize("python", AGENT_PYTHONS)
def test_the_launcher_unpacks_what_was_packed(python, tmp_path):
    """Each Python lays down the same files, readable and in silence."""
    assert python, "this Python was asked for and is not here"
    whole = agent_archive.packed(agent_archive.whole())
    archive, launcher = tmp_path / "usr/local/lib/freepost/agent.bz2", tmp_path / "usr/local/bin/agent"
    for path, content in ((archive, whole), (launcher, (ROOT / "templates/agent.sh").read_bytes())):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    launcher.chmod(0o755)
    (tmp_path / "run").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/cloud-init").write_text(f"#!{python}\n")  # the launcher takes the interpreter from its first line
    (tmp_path / "bin/cloud-init").chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "LANG": "C.UTF-8"}
    done = subprocess.run([launcher, "--help"], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    app = tmp_path / "run/freepost-agent"
    for name, text in files(whole).items():
        assert (app / name).read_text() == text
        assert (app / name).stat().st_mode & 0o777 == 0o644
