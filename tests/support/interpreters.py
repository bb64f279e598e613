"""The Pythons that the agent must run on, as far as this machine has them.

A test takes `python` from `AGENT_PYTHONS`: each version that is missing is a test skipped with that reason. The oldest
and the two newest are in the default tests, those in between among `-m e2e`.
`nox -s agent-3.6` (FREEPOST_AGENT_PYTHON=3.6) runs those of one version, and there a missing one fails.
"""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

VERSIONS = ("3.6", "3.8", "3.10", "3.13", "3.14")
ONLY = os.environ.get("FREEPOST_AGENT_PYTHON")


@functools.cache
def pyenv_versions():
    """Return the folder of pyenv's Pythons, if there is a pyenv."""
    pyenv = shutil.which("pyenv")
    if not pyenv:
        return None
    root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True).stdout.strip()
    return Path(root, "versions")


@functools.cache
def find(version):
    """Return the path of a Python X.Y that runs, from the PATH or from pyenv; None if there is none."""
    candidates = [shutil.which(f"python{version}")]
    if pyenv_versions():
        candidates += sorted(pyenv_versions().glob(f"{version}.*/bin/python{version}"), reverse=True)
    for path in filter(None, candidates):
        # A shim of pyenv is on the PATH even where its Python isn't to be had: only a run tells.
        tell = f"import sys; print(sys.executable if '%d.%d' % sys.version_info[:2] == '{version}' else '')"
        run = subprocess.run([path, "-c", tell], capture_output=True, text=True, check=False)
        if run.returncode == 0 and run.stdout.strip():
            return run.stdout.strip()
    return None


def _param(version):
    if find(version) is None and not ONLY:
        return pytest.param(None, id=version, marks=pytest.mark.skip(reason=f"NOT RUN on Python {version}: none found"))
    between = version in VERSIONS[1:-2] and not ONLY
    return pytest.param(find(version), id=version, marks=[pytest.mark.e2e] * between)


AGENT_PYTHONS = [_param(version) for version in ([ONLY] if ONLY else VERSIONS)]
