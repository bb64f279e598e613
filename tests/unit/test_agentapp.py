"""The zip app that every VM gets."""

import ast
import io
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from provisioner.agentapp import agent_zip, strip
from provisioner.resources import agent_sources
from tests.interpreters import AGENT_PYTHONS

ROOT = Path(__file__).parents[2]


def entries():
    """Open the zip app."""
    return zipfile.ZipFile(io.BytesIO(agent_zip()))


def test_it_is_reproducible_and_stored():
    """The same sources give the same bytes: fixed time, mode and order, nothing deflated."""
    first = agent_zip()
    agent_zip.cache_clear()
    assert agent_zip() == first
    with entries() as archive:
        infos = archive.infolist()
    assert [info.filename for info in infos] == sorted([*agent_sources(), "__main__.py"])
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.external_attr >> 16 for info in infos} == {0o644}


def test_two_interpreters_pack_the_same():
    """A fresh process with another hash seed packs the same bytes."""
    program = "import sys; from provisioner.agentapp import agent_zip; sys.stdout.buffer.write(agent_zip())"
    packed = [
        subprocess.run([sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, stdout=-1, check=True, cwd=ROOT)
        for seed in ("1", "2")
    ]
    assert {run.stdout for run in packed} == {agent_zip()}


@pytest.mark.parametrize("python", AGENT_PYTHONS)
def test_it_runs_without_the_checkout(python, tmp_path):
    """The zip app alone answers --help on each Python, with all warnings as errors and nothing else to import."""
    assert python, "this Python was asked for and is not here"
    app = tmp_path / "agent.pyz"
    app.write_bytes(agent_zip())
    run = subprocess.run(
        [python, "-I", "-W", "error", str(app), "--help"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "push" in run.stdout


@pytest.mark.parametrize("python", AGENT_PYTHONS)
def test_every_module_compiles(python, tmp_path):
    """Each Python compiles every module of the zip app: no syntax is too new for it."""
    app = tmp_path / "agent.pyz"
    app.write_bytes(agent_zip())
    program = (
        "import sys, zipfile\n"
        "archive = zipfile.ZipFile(sys.argv[1])\n"
        "[compile(archive.read(name), name, 'exec') for name in archive.namelist()]\n"
    )
    run = subprocess.run([python, "-I", "-c", program, str(app)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("name", sorted(agent_sources()))
def test_every_line_stays_where_it_was(name):
    """What is left of a module is the same code on the same lines, so a VM's traceback names the repository's line."""
    source = agent_sources()[name].decode()

    def code(text):
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False):
                del node.body[0]
                if not node.body and not isinstance(node, ast.Module):
                    node.body.append(ast.Pass(lineno=0, col_offset=0))
        for node in ast.walk(tree):
            if isinstance(node, ast.Pass):
                node.lineno = 0  # `pass` may stand for a docstring of many lines
        return ast.dump(tree), [getattr(node, "lineno", None) for node in ast.walk(tree)]

    assert code(strip(source)) == code(source)


def test_strip_drops_prose_only():
    """Comments and docstrings go; strings that look like them stay."""
    source = textwrap.dedent('''\
        """Module."""
        import os  # why
        # alone
        class A:
            """Only a docstring."""


        def f(x):
            """Two

            lines."""
            y = "# not a comment"
            return """neither # this""" + y
        ''')
    assert strip(source).splitlines() == [
        "", "import os", "", "class A:", "    pass", "", "", "def f(x):", "", "", "",
        '    y = "# not a comment"', '    return """neither # this""" + y',
    ]  # fmt: skip


def test_nothing_but_line_ends_follows_a_stripped_comment():
    """No line of the app ends in blanks: they would travel in every VM's user-data."""
    for name, source in agent_sources().items():
        assert not [n for n, line in enumerate(strip(source.decode()).splitlines(), 1) if line != line.rstrip()], name
