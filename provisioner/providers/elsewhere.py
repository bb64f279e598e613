"""The ``elsewhere`` provider: VMs that something else starts, from what `provision render` printed.

It starts nothing and knows of no VM, so all that is known of such a job is what it posts to the bucket.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from provisioner.errors import BadInput, NotFound
from provisioner.providers.base import EC2_LIMIT, RAW_LIMIT, Choice, Context, Instance, Order, Provider, State


class ElsewhereProvider(Provider):
    """The provider in the record of a job whose VM is started and ended by something else."""

    name: ClassVar[str] = "elsewhere"
    user_data_limit: ClassVar[int] = EC2_LIMIT  # the platform isn't known, so the tightest limits hold
    raw_limit: ClassVar[int] = RAW_LIMIT
    option_schema: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def create(cls, context: Context) -> ElsewhereProvider:
        """Make the provider; there is nothing to configure."""
        return cls()

    def choices(self, options: Mapping[str, Any]) -> Sequence[Choice]:
        """Raise BadInput, before a launch or a retry announces anything."""
        message = "VMs of this job are started elsewhere, by those who have its user-data"
        raise BadInput(message, hint="provision render JOB.yaml --stage makes a new job with user-data of its own")

    def launch(self, order: Order) -> Sequence[Instance]:
        """Raise BadInput."""
        self.choices(order.options)
        return []

    def state(self, instances: Sequence[Instance]) -> Mapping[str, State]:
        """Return nothing: what its VMs post is all that is known of them."""
        return {}

    def console(self, instance: Instance) -> bytes:
        """Raise NotFound."""
        raise NotFound(f"{instance.id} was started elsewhere, so its console can't be read")

    def terminate(self, instances: Sequence[Instance]) -> None:
        """Do nothing: the dead-man timer ends a VM that was started elsewhere."""
