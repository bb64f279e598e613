"""Which providers there are: those below, and those that other distributions offer.

A distribution offers one by an entry point of the group ``freepost.providers``: its name is what ``vm.provider`` says,
its object a class that follows `base.Provider` and has a class method ``create(context: Context)``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from provisioner.errors import BadInput
from provisioner.providers.base import Provider

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "freepost.providers"
BUILT_IN = {
    "elsewhere": "provisioner.providers.external:ElsewhereProvider",
    "ec2": "provisioner.providers.ec2:Ec2Provider",
    "openstack": "provisioner.providers.openstack:OpenstackProvider",
    "local": "provisioner.providers.local:LocalProvider",
    "machine": "provisioner.providers.nspawn:MachineProvider",
    "qemu": "provisioner.providers.qemu:QemuProvider",
}


@dataclass(frozen=True)
class Context:
    """What a provider may need to be made.

    Where it keeps state, the store's endpoint that its VMs must reach, and the job's options: those under ``vm``.
    """

    state_dir: Path
    store_endpoint_url: str
    options: Mapping[str, Any] = field(default_factory=dict)


@functools.cache
def _offered() -> tuple[EntryPoint, ...]:
    """What other distributions offer: found by reading what every one of them says of itself, so only once."""
    from importlib.metadata import entry_points

    return tuple(entry_points(group=GROUP))


def names() -> list[str]:
    """Every provider's name."""
    return sorted({*BUILT_IN, *(point.name for point in _offered())})


def provider_class(name: str) -> Any:  # noqa: ANN401 - a class; what it makes is a Provider
    """Return the class of a provider. Raise BadInput, naming those there are."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)
    for point in _offered():
        if point.name == name:
            return point.load()
    message = f"there is no provider {name!r}"
    raise BadInput(message, hint=f"choose one of {', '.join(names())}")


def create(name: str, context: Context) -> Provider:
    """Make a provider."""
    return cast("Provider", provider_class(name).create(context))


class OptionSchemas(Mapping[str, Mapping[str, Any]]):
    """The keys that each provider takes under ``vm``, by the provider's name; a provider is imported when asked for."""

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        if name not in names():
            raise KeyError(name)
        schema: Mapping[str, Any] = provider_class(name).option_schema
        return schema

    def __iter__(self) -> Iterator[str]:
        return iter(names())

    def __len__(self) -> int:
        return len(names())
