"""What holds for the tests themselves."""

import ast
from pathlib import Path

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
