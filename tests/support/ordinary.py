"""Programs run as someone who may not do everything: root's capabilities hide what every other user meets first."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def run(*argv, **options):
    """Run a program as an ordinary user. For root: as root without a capability, for whom modes hold as for anyone.

    Another uid would not do: the interpreter and the checkout may lie where only root gets to.
    """
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("no setpriv (util-linux) to give up root's capabilities with")
        argv = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", *argv)
    return subprocess.run(
        [str(word) for word in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options
    )
