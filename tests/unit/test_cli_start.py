"""What the `provision` command loads before it knows what to do."""

import subprocess
import sys

HEAVY = {"boto3", "botocore", "fastapi", "jinja2", "jsonschema", "openstack", "python_minifier", "requests", "yaml"}


def test_help_loads_nothing_that_only_a_command_needs():
    """`provision --help` answers at once: what is slow to import is imported by the command that uses it."""
    code = "import sys; from provisioner import cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())
