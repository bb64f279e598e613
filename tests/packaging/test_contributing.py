"""CONTRIBUTING: what it says about changing a template and booting it works, as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from provisioner.errors import MissingDependency
from tests.support import guests

ROOT = Path(__file__).parents[2]


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_a_changed_template_boots_as_a_machine(tmp_path, store, state_folder):
    """In a copy of the tree, the lines that follow the installation change every VM, and a machine shows it."""
    try:
        guests.KINDS["machine"].make(Path("unused"), "")._check(guests.built("bookworm"))
    except MissingDependency as missing:
        pytest.skip(f"{missing.message} {missing.hint}")
    copy = tmp_path / "freepost"
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0"):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    program = copy / ".venv/bin/provision"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m provisioner "$@"\n')
    program.chmod(0o755)
    block = re.search(r"^```sh[^\n]*\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL | re.MULTILINE)[1]
    lines = block.partition("\n\n")[2].replace("sudo ", "").replace("/tmp/", f"{tmp_path}/")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FREEPOST_"))}
    environment |= {"PYTHONPATH": str(copy), "FREEPOST_STATE_DIR": str(state_folder)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=copy,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "changed by me"
