"""The guides: their shell lines work from top to bottom, their links lead somewhere, their messages are the code's.

A page is a session. Its fences say in their info string what is to be done with them::

    sh                      run by bash, in the page's folder, where it stands among the others
    sh file: NAME           written to that file; so with yaml
    sh background: REASON   started, and ended with the page, once it says that it listens
    sh not-run: REASON      left alone
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAPERS = [*DOCS, *(ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"))]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHELL = {"sh", "bash", "shell"}
SLOW = {"arrays-and-retries", "other-platforms"}  # many jobs, one after the other: with the e2e tests
PORT = "8450"  # of the signing service: the pages name its default, a test takes one that is free


def blocks(page):
    """Each fence of a page that is about shell or files: what it is for, its argument, and its text."""
    for language, words, text in FENCE.findall(page.read_text()):
        kind, _, argument = words.strip().partition(": ")
        if language in SHELL or kind:
            yield kind or "run", argument.strip(), text


def sessions():
    """The pages that have something to run."""
    pages = [page for page in DOCS if any(kind == "run" for kind, _, _ in blocks(page))]
    return [pytest.param(page, id=page.stem, marks=[pytest.mark.e2e] * (page.stem in SLOW)) for page in pages]


@pytest.fixture
def shell(tmp_path, state_folder, store):
    """Run a script in the page's folder, as a reader would, whose operator is that of the test session.

    The session's store stays: what stops it is tested elsewhere.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in (("provision", "provisioner"), ("agent", "agent")):
        spare = '[ "$1 $2" != "store stop" ] || exit 0\n' if name == "provision" else ""
        (programs / name).write_text(f'#!/bin/sh\n{spare}exec "{sys.executable}" -m {module} "$@"\n')
        (programs / name).chmod(0o755)
    folder = tmp_path / "page"
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FREEPOST_"))}
    environment |= {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FREEPOST_STATE_DIR": str(state_folder),
    }
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])

    def start(script, **options):
        command = ["bash", "-euo", "pipefail", "-c", script.replace(PORT, port)]
        return subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, text=True, **options)

    start.folder = folder
    return start


@pytest.mark.parametrize("page", sessions())
def test_a_page_can_be_followed(shell, page):
    """Pasted block by block into one shell, from an empty folder, every line of a guide works."""
    variables, running = "", []
    try:
        for kind, argument, text in blocks(page):
            if kind == "file":
                (shell.folder / argument).write_text(text)
            elif kind == "background":
                process = shell(f"exec {text}", stderr=subprocess.PIPE)
                running.append(process)
                assert "listening" in process.stderr.readline()
            elif kind == "run":
                # What one block sets the next may use: each leaves its variables behind, as a shell would.
                script = f"{variables}\n{text}\ndeclare -p job id 2>/dev/null >.variables || :\n"
                done = shell(script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                said = done.communicate(timeout=100)[0]
                assert done.returncode == 0, f"{text}\n{said}"
                assert "Traceback" not in said
                variables = (shell.folder / ".variables").read_text()
    finally:
        for process in running:
            process.terminate()
            process.communicate(timeout=20)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAPERS], ids=lambda page: page.name)
def test_each_block_is_run_or_says_why_not(page):
    """A fence of shell is run by a test, or gives its reason; README's first block is run by .ci/run."""
    readme = page.name == "README.md" and page.parent == ROOT
    for number, (kind, argument, text) in enumerate(blocks(page)):
        assert kind in {"run", "file", "background", "not-run"}, kind
        assert kind == "run" or argument, f"no reason is given for: {text}"
        assert kind != "run" or page in DOCS or (readme and number == 0), f"nothing runs this: {text}"


@pytest.mark.parametrize("page", PAPERS, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Each relative link names a file of the repository, and its anchor a heading there."""
    for target in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def anchors(page):
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_messages_are_the_codes_own():
    """What troubleshooting quotes, the code says."""
    said = ""
    for path in [*(ROOT / "provisioner").rglob("*.py"), *(ROOT / "agent").glob("*.py")]:
        said += re.sub(r'"\s*\n\s*f?"', "", path.read_text())  # a sentence in several literals
    table = (ROOT / "docs/troubleshooting.md").read_text().partition("## By message")[2]
    quoted = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(quoted) > 10
    for message in quoted:
        for piece in message.split("…"):
            assert piece.strip().lower() in said.lower(), message


def test_every_exit_code_is_explained():
    """Troubleshooting has a row for each exit code of `provisioner.errors`."""
    from provisioner import errors

    table = (ROOT / "docs/troubleshooting.md").read_text().partition("## By message")[0]
    rows = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert rows == {error.exit_code for error in errors.FreepostError.__subclasses__()}
