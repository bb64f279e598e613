"""README's picture: `.ci/picture` draws what commands printed, and docs/session.svg is such a drawing."""

import importlib.machinery
import importlib.util
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def load():
    """The script as a module; no bytecode is left beside it."""
    loader = importlib.machinery.SourceFileLoader("picture", str(ROOT / ".ci/picture"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("picture", loader))
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def texts(svg):
    """What each line of a drawing says."""
    return ["".join(line.itertext()) for line in ET.fromstring(svg).iter(f"{SVG}text")]


def test_lines_are_drawn_as_they_are():
    """Spaces, angle brackets and ampersands are text; a line that is too long goes on in the next."""
    picture = load()
    drawn = texts(picture.draw([("command", "a <b> & c"), ("output", "  two  spaces"), ("output", "x" * 150)]))
    assert drawn[:2] == ["$ a <b> & c", "  two  spaces"]
    assert "".join(drawn[2:]) == "x" * 150
    assert max(map(len, drawn)) <= picture.COLUMNS


def test_the_picture_is_of_the_session():
    """What README shows is a drawing of the session that the script runs, and names no path of whoever drew it."""
    picture = load()
    svg = (ROOT / "docs/session.svg").read_text()
    shown = texts(svg)
    assert [line for line in shown if line.startswith("$ ")] == [f"$ {command}" for command in picture.SESSION]
    assert "Hello from a VM that holds no credentials" in shown
    assert not [line for line in shown if str(Path.home()) in line or str(ROOT) in line]
