"""What the `provision` command loads before it knows what to do."""

import subprocess
import sys

import pytest
import typer
from typer.core import TyperGroup

from agent import __version__
from provisioner import cli

HEAVY = {"boto3", "botocore", "fastapi", "jinja2", "jsonschema", "openstack", "python_minifier", "requests", "yaml"}
TYPERS = {"pydantic", "rich"}  # typer 0.29 loads the one for every word, and each typer the other for its colours


def test_help_loads_nothing_that_only_a_command_needs():
    """`provision --help` answers at once: what is slow to import is imported by the command that uses it."""
    code = "import sys; from provisioner import cli; cli.main(['-h']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not (HEAVY | TYPERS) & set(done.stderr.split())


def every_command(group, above=()):
    """Every command's words, those of groups too."""
    yield above
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from every_command(command, (*above, name))
        else:
            yield (*above, name)


@pytest.mark.parametrize("words", list(every_command(typer.main.get_group(cli.app))), ids=" ".join)
def test_help_is_short_and_long(words, capfd):
    """Every command answers -h as it answers --help."""
    assert cli.main([*words, "-h"]) == 0
    short = capfd.readouterr()
    assert cli.main([*words, "--help"]) == 0
    assert capfd.readouterr() == short
    assert short.out.startswith(f"Usage: {' '.join(['provision', *words])}")


def test_provision_tells_its_version(capfd):
    """`provision --version` names the program and the version that the agent has, too."""
    assert cli.main(["--version"]) == 0
    assert capfd.readouterr().out == f"provision {__version__}\n"
