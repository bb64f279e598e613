"""The stores that the contract tests run against, which name themselves in the test report."""

from __future__ import annotations

import subprocess

import pytest

from provisioner.embedded import seaweedfs
from tests.support import rclone as rclones
from tests.support import rgw as gateways


@pytest.fixture(scope="session")
def rgw(used):
    """A Ceph Object Gateway of the test session's own (`tests.support.rgw`), or a skip that says what is missing."""
    if gateways.missing():
        pytest.skip(gateways.missing())
    with gateways.running() as running:
        used["Ceph RGW"] = running.version
        yield running


@pytest.fixture(scope="session")
def rclone(used):
    """A server that takes no forms (`tests.support.rclone.Rclone`)."""
    with rclones.running() as running:
        used["rclone serve s3"] = running.version
        yield running


@pytest.fixture(scope="session")
def seaweed(store, used):
    """The embedded store, named in the report."""
    said = subprocess.run([seaweedfs.find_program(), "version"], capture_output=True, text=True, check=True).stdout
    used["SeaweedFS"] = said.split()[2]
    return store


@pytest.fixture(scope="session", params=["seaweed", "rgw"])
def each_store(request):
    """Each store in turn."""
    return request.getfixturevalue(request.param)
