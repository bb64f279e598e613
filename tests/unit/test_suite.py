"""What holds for the tests themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def test_every_test_says_what_it_holds():
    """Each test function has a docstring that ends like a sentence."""
    without = []
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                said = (ast.get_docstring(node) or "").strip()
                if not said.endswith((".", "?", "!")):
                    without.append(f"{path.relative_to(TESTS)}:{node.lineno} {node.name}")
    assert not without


@pytest.mark.e2e
def test_the_report_names_what_ran_in_other_processes(tmp_path):
    """Split by pytest-xdist, a run still prints each store and its version."""
    (tmp_path / "test_it.py").write_text("def test_it(used):\n    used['Bucketeer'] = '1.2'\n")
    words = (
        f"-m pytest -p tests.conftest -n 1 -c pyproject.toml --basetemp {tmp_path / 'its'} {tmp_path / 'test_it.py'}"
    )
    done = subprocess.run(
        [sys.executable, *words.split()], cwd=TESTS.parent, capture_output=True, text=True, check=True
    )
    assert "store: Bucketeer 1.2\n" in done.stdout
