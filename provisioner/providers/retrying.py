"""A provider that tries again what may work later (`provisioner.retry`), method by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from provisioner.providers.base import Check, Choice, Instance, Order, Provider, ProviderResource, State
from provisioner.retry import DEFAULT_RETRY, Retry


class RetryingProvider(Provider):
    """Does what `provider` does, and each call of it again while it raises Unreachable."""

    def __init__(self, provider: Provider, retry: Retry = DEFAULT_RETRY) -> None:
        self._provider = provider
        self._retry = retry

    @property
    def name(self) -> str:
        """As the provider's."""
        return self._provider.name

    @property
    def user_data_limit(self) -> int:
        """As the provider's."""
        return self._provider.user_data_limit

    @property
    def raw_limit(self) -> int:
        """As the provider's."""
        return self._provider.raw_limit

    @property
    def option_schema(self) -> Mapping[str, Any]:
        """As the provider's."""
        return self._provider.option_schema

    @property
    def concurrency(self) -> int:
        """As the provider's."""
        return self._provider.concurrency

    @property
    def groups(self) -> bool:
        """As the provider's."""
        return self._provider.groups

    @property
    def has_guest(self) -> bool:
        """As the provider's."""
        return self._provider.has_guest

    @property
    def notice(self) -> str:
        """As the provider's."""
        return self._provider.notice

    @property
    def pinned_options(self) -> Mapping[str, Any]:
        """As the provider's."""
        return self._provider.pinned_options

    def launch(self, order: Order) -> Sequence[Instance]:
        """As `Provider.launch`."""
        return self._retry(self._provider.launch, order)

    def state(self, instances: Sequence[Instance]) -> Mapping[str, State]:
        """As `Provider.state`."""
        return self._retry(self._provider.state, instances)

    def console(self, instance: Instance) -> bytes:
        """As `Provider.console`."""
        return self._retry(self._provider.console, instance)

    def terminate(self, instances: Sequence[Instance]) -> None:
        """As `Provider.terminate`."""
        self._retry(self._provider.terminate, instances)

    def choices(self, options: Mapping[str, Any]) -> Sequence[Choice]:
        """As `Provider.choices`."""
        return self._retry(self._provider.choices, options)

    def guest_url(self, url: str) -> str:
        """As `Provider.guest_url`, which asks nobody."""
        return self._provider.guest_url(url)

    def find_instances(self, order: Order) -> Sequence[Instance] | None:
        """As `Provider.find_instances`."""
        return self._retry(self._provider.find_instances, order)

    def list_instances(self, job: str) -> Sequence[Instance]:
        """As `Provider.list_instances`."""
        return self._retry(self._provider.list_instances, job)

    def list_resources(self) -> Sequence[ProviderResource]:
        """As `Provider.list_resources`."""
        return self._retry(self._provider.list_resources)

    def remove_resources(self, resources: Sequence[ProviderResource]) -> None:
        """As `Provider.remove_resources`."""
        self._retry(self._provider.remove_resources, resources)

    def checks(self, options: Mapping[str, Any], vms: int) -> Sequence[Check]:
        """As `Provider.checks`."""
        return self._retry(self._provider.checks, options, vms)

    def stop_waiting(self) -> None:
        """As `Provider.stop_waiting`: at once, and not again."""
        self._provider.stop_waiting()
