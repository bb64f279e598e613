"""The stores that the contract tests run against, and a line that names them in every test report."""

from __future__ import annotations

import subprocess

import pytest

from provisioner import seaweedfs
from tests import rclone as rclones
from tests import rgw as gateways

_used: dict[str, str] = {}


@pytest.fixture(scope="session")
def rgw():
    """A Ceph Object Gateway of the test session's own (`tests.rgw.Rgw`); skips, saying what is missing, without one."""
    if gateways.missing():
        pytest.skip(gateways.missing())
    with gateways.running() as running:
        _used["Ceph RGW"] = running.version
        yield running


@pytest.fixture(scope="session")
def used():
    """What the report names, by name: versions."""
    return _used


@pytest.fixture(scope="session")
def rclone():
    """A server that takes no forms (`tests.rclone.Rclone`)."""
    with rclones.running() as running:
        _used["rclone serve s3"] = running.version
        yield running


@pytest.fixture(scope="session")
def seaweed(store):
    """The embedded store, named in the report."""
    said = subprocess.run([seaweedfs.find_program(), "version"], capture_output=True, text=True, check=True).stdout
    _used["SeaweedFS"] = said.split()[2]
    return store


@pytest.fixture(scope="session", params=["seaweed", "rgw"])
def each_store(request):
    """Each store in turn."""
    return request.getfixturevalue(request.param)


def pytest_terminal_summary(terminalreporter):
    """Name each store and its version."""
    for name, version in _used.items():
        terminalreporter.write_line(f"{'browser' if name == 'Chromium' else 'store'}: {name} {version}")
