"""How the product speaks: one list of all that it says, and the rules that each sentence keeps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.messages import ROOT, collect

GOLDEN = Path(__file__).parents[1] / "golden" / "messages.txt"
MESSAGES = collect()
# Words that begin with a capital wherever they stand.
PROPER = re.compile(r"(?:[A-Z0-9][A-Z0-9]+s?\b|[A-Z][a-z]+[A-Z]\w*|(?:Linux|Python|Debian|Ceph|Terraform|Chromium)\b)")


def said(*kinds):
    """The sentences of some kinds, each with where it stands."""
    return [pytest.param(each.text, id=f"{each.module}: {each.text[:60]}") for each in MESSAGES if each.kind in kinds]


def test_every_sentence_stands_in_one_file():
    """A change of what is said to people is read as text: `python -m tests.unit.test_english` writes the file anew."""
    assert rendered() == GOLDEN.read_text()


@pytest.mark.parametrize("text", said("error", "hint", "event", "line"))
def test_a_message_begins_in_lower_case_and_has_no_full_stop(text):
    """It is a part of a line that others begin (`error: …`, `hint: …`, a time)."""
    assert text[0].islower() or not text[0].isalpha() or PROPER.match(text), "begins with a capital"
    assert not text.endswith(".") or text.endswith("…"), "ends with a full stop"


@pytest.mark.parametrize("text", said("error"))
def test_a_message_names_the_option_first(text):
    """Of an option: `--option: what is wrong with 'value'`."""
    assert not text.startswith("--") or re.match(r"--[a-z0-9%-]+(?:( and|,) --[a-z0-9-]+)*: ", text)


def test_the_library_names_no_option():
    """What can be called without the command line names its argument (`BadInput`), which `cli` shows as an option."""
    naming = {each.module for each in MESSAGES if each.kind == "error" and each.text.startswith("--")}
    assert not [module for module in naming if not module.startswith(("provisioner.cli.", "agent."))]


@pytest.mark.parametrize("text", said("command"))
def test_a_commands_help_is_an_imperative(text):
    """A capital, what to do, a full stop."""
    first = text.split()[0]
    assert first[0].isupper()
    assert not first.endswith("s") or first.endswith("ss")
    assert first not in ("A", "An", "The", "This", "It")
    assert text.endswith(".")


@pytest.mark.parametrize("words", [[], ["url"], ["store"], ["image"]], ids=lambda words: " ".join(words) or "all")
def test_no_summary_of_a_command_is_cut(words):
    """Each command's first sentence has room in a terminal of 80 columns."""
    environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb"}
    command = [sys.executable, "-m", "provisioner", *words, "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    rows = done.stdout.partition("Commands:\n")[2].splitlines()
    assert len(rows) > 1
    assert [row for row in rows if not row.endswith(".") or row.endswith("...")] == []


@pytest.mark.parametrize("text", said("option"))
def test_an_options_help_is_a_phrase(text):
    """A capital and no full stop at its end."""
    assert text[0].isupper() or not text[0].isalpha()
    assert not text.endswith(".")


def rendered():
    """Every sentence, below the module that says it."""
    lines, module = [], ""
    for each in MESSAGES:
        if each.module != module:
            lines += ["", each.module] if module else [each.module]
            module = each.module
        lines.append(f"  {each.kind:8}{each.text}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / GOLDEN).write_text(rendered())
