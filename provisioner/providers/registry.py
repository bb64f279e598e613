"""Finds a provider by its name: a built-in one, or one that another distribution offers.

A distribution offers one by an entry point of the group ``freepost.providers``: its name is that of ``vm.provider``,
its object a class with a class method ``create(context: Context)`` that makes a `base.Provider`. A class that has a
provider's four methods and doesn't derive from `base.Provider`, like older plugins, gets the defaults of the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from provisioner.errors import BadInput
from provisioner.providers.base import Context, Provider

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["BUILT_IN", "GROUP", "Context", "OptionSchemas", "ProviderClass", "create", "names", "provider_class"]

GROUP = "freepost.providers"
BUILT_IN = {
    "elsewhere": "provisioner.providers.elsewhere:ElsewhereProvider",
    "ec2": "provisioner.providers.ec2:Ec2Provider",
    "openstack": "provisioner.providers.openstack:OpenstackProvider",
    "local": "provisioner.providers.local:LocalProvider",
    "machine": "provisioner.providers.nspawn:MachineProvider",
    "qemu": "provisioner.providers.qemu:QemuProvider",
}


class ProviderClass(Protocol):
    """What is asked of a provider's class, before one is made."""

    @property
    def option_schema(self) -> Mapping[str, Any]:
        """As `Provider.option_schema`: a class attribute."""
        ...

    @property
    def reaches_loopback(self) -> bool:
        """As `Provider.reaches_loopback`: a class attribute."""
        ...

    def create(self, context: Context) -> Provider:
        """Make a provider; a class method."""
        ...


@functools.cache
def _offered() -> tuple[EntryPoint, ...]:
    """Return the entry points of other distributions, read once: it means reading every distribution's metadata."""
    from importlib.metadata import entry_points

    return tuple(entry_points(group=GROUP))


def names() -> list[str]:
    """Return every provider's name, in order."""
    return sorted({*BUILT_IN, *(point.name for point in _offered())})


def provider_class(name: str) -> ProviderClass:
    """Return the class of a provider. Raise BadInput, naming those there are."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        built_in: ProviderClass = getattr(import_module(module), attribute)
        return built_in
    for point in _offered():
        if point.name == name:
            return _with_defaults(point.load())
    raise BadInput(f"there is no provider {name!r}", hint=f"choose one of {', '.join(names())}")


def _with_defaults(offered: type) -> ProviderClass:
    """Return a plugin's class; one that doesn't derive from Provider, with Provider's defaults for what it lacks."""
    complete: Any = offered if issubclass(offered, Provider) else type(offered.__name__, (offered, Provider), {})
    found: ProviderClass = complete
    return found


def create(name: str, context: Context) -> Provider:
    """Make a provider."""
    return provider_class(name).create(context)


class OptionSchemas(Mapping[str, Mapping[str, Any]]):
    """The keys that each provider takes under ``vm``, by the provider's name; a provider is imported when asked for."""

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        if name not in names():
            raise KeyError(name)
        return provider_class(name).option_schema

    def __iter__(self) -> Iterator[str]:
        return iter(names())

    def __len__(self) -> int:
        return len(names())
