"""The provider of VMs that something else starts: it starts nothing, and says so."""

from datetime import datetime, timezone
from pathlib import Path

import pytest

from provisioner.errors import BadInput, NotFound
from provisioner.providers.base import Context, Instance, Order
from provisioner.providers.elsewhere import ElsewhereProvider

VM = Instance("vm-1", "0", 1)


@pytest.fixture
def provider():
    return ElsewhereProvider.create(Context(Path("/nowhere"), "http://127.0.0.1:1"))


def test_it_starts_nothing(provider):
    """A launch and a retry are refused before anything is announced, with what to do instead."""
    order = Order("job-1", ("0",), 1, "token", datetime(2026, 11, 27, tzinfo=timezone.utc), b"#cloud-config\n")
    for call in (lambda: provider.choices({}), lambda: provider.launch(order)):
        with pytest.raises(BadInput, match="started elsewhere") as caught:
            call()
        assert "provision render JOB.yaml --stage" in caught.value.hint


def test_it_knows_of_no_vm(provider):
    """All that is known of such a VM is what it posts; ending it does nothing, and it has no console."""
    assert provider.state([VM]) == {}
    assert provider.terminate([VM]) is None
    with pytest.raises(NotFound, match="vm-1 was started elsewhere"):
        provider.console(VM)
