"""The wheel: exactly these files, and they work with nothing else around."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from provisioner.packing import agent_archive

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def run(*argv, cwd, **options):
    """Run a program away from the checkout and return what it printed."""
    done = subprocess.run(
        argv, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Copy the files that git has, as they are now, to a folder without any others."""
    source = tmp_path_factory.mktemp("source")
    for name in run("git", "ls-files", "-z", cwd=ROOT).split("\0"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """Build the wheel as an installer would."""
    folder = tmp_path_factory.mktemp("wheel")
    # Whether cloud-init's schema comes along depends on the builder's apt; the rest does not.
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(source)]
    run(*command, cwd=folder, timeout=300, env={**os.environ, "FREEPOST_SCHEMA": "no"})
    return next(folder.glob("*.whl"))


def test_file_list(wheel):
    """The wheel holds what tests/packaging/wheel.txt lists, no more and no less."""
    listed = (Path(__file__).parent / "wheel.txt").read_text().split()
    version = re.search(r'__version__ = "(.+)"', (ROOT / "agent/__init__.py").read_text())[1]
    with zipfile.ZipFile(wheel) as archive:
        assert sorted(archive.namelist()) == sorted(name.replace("VERSION", version) for name in listed)


def test_a_schema_that_nobody_looked_at_is_not_packed(source, tmp_path):
    """A schema that lies in the tree must have a pinned sum, as one that is fetched: else a release's build fails."""
    left = source / "provisioner/userdata/cloud-config.schema.json"
    left.write_text("{}")
    try:
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(source)]
        environment = {**os.environ, "FREEPOST_SCHEMA": "must"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    finally:
        left.unlink()
    assert done.returncode != 0
    assert "is not one of those pinned" in done.stdout + done.stderr


@pytest.fixture(scope="module")
def scripts(wheel, tmp_path_factory):
    """Install the wheel and its dependencies into a fresh environment; return the folder of its scripts."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python")]
    # Compiling everything that boto3 has takes longer than all the rest; what is imported is compiled then.
    run(*pip, "install", "-q", "--no-compile", str(wheel), cwd=folder, timeout=300)
    return folder / "bin"


@pytest.mark.e2e
def test_scripts_answer_from_an_empty_folder(scripts, tmp_path):
    """`provision --help` and `agent --help` work where there is no checkout."""
    assert "launch" in run(scripts / "provision", "--help", cwd=tmp_path)
    assert "push" in run(scripts / "agent", "--help", cwd=tmp_path)
    assert "launch" in run(scripts / "python", "-m", "provisioner", "--help", cwd=tmp_path)
    assert "push" in run(scripts / "python", "-m", "agent", "--help", cwd=tmp_path)


def test_the_agent_is_packed_already(scripts, tmp_path):
    """Installed, a launch finds the agent packed: nothing is made small, and nothing kept in a cache."""
    program = (
        "import sys; from provisioner.packing import agent_archive\n"
        "for parts, more in agent_archive.common(): agent_archive.packed(parts, more=more)\n"
        "print(len(agent_archive.rest()), *({'ast', 'python_minifier'} & set(sys.modules)))"
    )
    environment = {**os.environ, "FREEPOST_CACHE_DIR": str(tmp_path / "cache")}
    (size,) = run(scripts / "python", "-I", "-c", program, cwd=tmp_path, env=environment).split()
    assert int(size) == len(agent_archive.rest())
    assert not (tmp_path / "cache").exists()


def test_package_data_is_found(scripts, source, tmp_path):
    """Installed, the templates and the agent's sources are the checkout's, byte for byte."""
    program = (
        "import hashlib; from provisioner import resources as r; top = r.templates();"
        "files = {str(p.relative_to(top)): p.read_bytes() for p in top.rglob('*') if p.is_file()};"
        "[print(hashlib.sha256(b).hexdigest(), n) for n, b in sorted({**files, **r.agent_sources()}.items())]"
    )
    installed = run(scripts / "python", "-I", "-c", program, cwd=tmp_path)
    assert installed == run(sys.executable, "-c", program, cwd=source)
