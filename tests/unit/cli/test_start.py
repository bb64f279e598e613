"""What the `provision` command loads before it knows what to do, and what it answers by itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from agent import __version__
from provisioner.cli import app
from provisioner.providers.guest import images

HELLO = Path(__file__).parents[3] / "examples/hello/job.yaml"
# What a command that launches nothing and reads no job.yaml has no use for.
LAUNCHING = {"fastapi", "jinja2", "jsonschema", "openstack", "pydantic", "python_minifier", "requests", "rich", "yaml"}
STORE = {"boto3", "botocore", "s3transfer", "urllib3"}


def loaded(*words, state):
    """The modules that a process of its own has loaded when a command of `provision` is done."""
    code = "import sys; from provisioner.cli.app import main; print(main(sys.argv[1:]), *sys.modules)"
    environment = {**os.environ, "FREEPOST_STATE_DIR": str(state)}
    words = [sys.executable, "-c", code, *words]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    code, *modules = done.stdout.splitlines()[-1].split()
    assert code == "0"
    return set(modules)


def test_help_loads_nothing_that_only_a_command_needs(tmp_path):
    """`provision --help` answers at once: what is slow to import is imported by the command that uses it."""
    assert not (LAUNCHING | STORE) & loaded("--help", state=tmp_path)


def test_the_stores_status_loads_no_client(store, state_folder):
    """Whether the embedded store runs is read from a file, so nothing that speaks to a store is loaded."""
    assert not (LAUNCHING | STORE) & loaded("store", "status", state=state_folder)


def test_the_status_of_a_job_loads_nothing_that_launches(provision, state_folder):
    """Looking at a job takes a client of the store, and nothing of what signs, renders, posts or uploads."""
    lines = map(json.loads, provision.launch(HELLO, "--wait", "--json").out.splitlines())
    job = next(line["job"] for line in lines if line["event"] == "job")
    found = loaded("status", job, state=state_folder)
    assert "botocore" in found
    names = "job.load", "jobs.launch", "s3.probe", "jobs.renew", "jobs.role_session", "userdata.render"
    launching = {f"provisioner.{name}" for name in names}
    assert not (LAUNCHING | launching | {"boto3", "s3transfer"}) & found


def test_the_suites_of_help_are_those_there_are():
    """`image build --help` names what can be built, without loading what builds it."""
    (suite,) = (
        option
        for option in typer.main.get_group(app.app).commands["image"].commands["build"].params
        if option.name == "suite"
    )
    assert suite.help == f"Debian's release: {', '.join(images.SUITES)}"
    assert suite.default == images.DEFAULT


def every_command(group, above=()):
    """Every command's words, those of groups too."""
    yield above
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from every_command(command, (*above, name))
        else:
            yield (*above, name)


@pytest.mark.parametrize("words", list(every_command(typer.main.get_group(app.app))), ids=" ".join)
def test_help_is_short_and_long(words, capfd):
    """Every command answers -h as it answers --help."""
    assert app.main([*words, "-h"]) == 0
    short = capfd.readouterr()
    assert app.main([*words, "--help"]) == 0
    assert capfd.readouterr() == short
    assert short.out.startswith(f"Usage: {' '.join(['provision', *words])}")


def test_provision_tells_its_version(capfd):
    """`provision --version` names the program and the version that the agent has, too."""
    assert app.main(["--version"]) == 0
    assert capfd.readouterr().out == f"provision {__version__}\n"
