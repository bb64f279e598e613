"""The interface of providers, and the values that they take and give. tests/contract/ holds the suite that each passes.

A provider does one thing once: no retry (`providers.retrying` wraps it), no policy, no bucket.

This module is the API for plugins, providers that another distribution offers (`registry` says how). A plugin may rely
on these names, which only change with a note in CHANGELOG:

- those in `__all__` below, with every attribute and method of `Provider` and every field of the values;
- the errors of `provisioner.errors`;
- for a provider that runs the agent without a VM: `provisioner.userdata.parse.unpack`, and ``GRANT_PATH``,
  ``LAUNCHER_PATH`` and ``TASK_PATH`` of `provisioner.userdata.render`.

What a job's launch needs to know of a provider and can't learn by its methods stands in its attributes:
`reaches_loopback` lets a job that names no store use the embedded one; without `has_guest` the user-data is taken apart
by the provider itself, and the job runs as the operator.

What is added to `Provider` or to a value has a default, so that an older plugin goes on working. Everything else may
change with any release: other modules, names that begin with an underscore, and what `Order.options` holds besides the
keys of the provider's own `option_schema` or `choices`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["Check", "Choice", "Context", "Instance", "Order", "Phase", "Provider", "ProviderResource", "State"]


# Bytes of user-data that the tightest platforms take, which providers without a platform of their own hold to as well.
EC2_LIMIT = 16_384  # before base64 (AWS, "Run commands when you launch an EC2 instance")
RAW_LIMIT = 32_768  # the tightest of those that refuse gzip: Hetzner Cloud's


@dataclass(frozen=True)
class Context:
    """What a provider may need to be made.

    Where it keeps state, the store's endpoint that its VMs must reach, and the job's options: those under ``vm``.
    """

    state_dir: Path
    store_endpoint_url: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """One request for VMs that share one user-data: one task a VM, in the order of `tasks`, all of them or none.

    `token` is the same for the same order, at most 64 ASCII characters: launching an order a second time finds
    the VMs of the first. `options` is the job's ``vm`` mapping without the keys that every provider has.
    `fresh`: it was certainly never sent before, so there is no need to look for its VMs.
    The user-data holds a signed policy: never log an order's repr (it leaves the bytes out).
    """

    job: str
    tasks: tuple[str, ...]
    attempt: int
    token: str
    expires: datetime
    user_data: bytes = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    fresh: bool = False


@dataclass(frozen=True)
class Choice:
    """One way to serve a job: the options of an order, with nothing left open that may change until it is sent again.

    `name` is what people read (``c7g.large in eu-west-1a, spot``) and is part of the order's token.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ProviderResource:
    """Something of ours that a provider has: a VM, or what launching one needed.

    `kind` is ``vm`` or a name of the provider's own; `expires` is when it should be gone, if that is known.
    """

    kind: str
    id: str
    job: str
    expires: datetime | None
    text: str


@dataclass(frozen=True)
class Check:
    """One line of `provision doctor`. `good` is None where it could not be found out."""

    name: str
    good: bool | None
    text: str
    hint: str = ""


@dataclass(frozen=True)
class Instance:
    """A VM as the provider names it, and the task it was launched for. `place` is the name of its Choice, if known."""

    id: str
    task: str
    attempt: int
    place: str = field(default="", compare=False)


class Phase(Enum):
    """How a VM is doing. GONE covers terminated, powered off and never heard of: it will do no more work."""

    PENDING = "pending"
    RUNNING = "running"
    GONE = "gone"


@dataclass(frozen=True)
class State:
    """A VM's phase, and the provider's reason for it. Not `known`: it isn't listed, perhaps for being young."""

    phase: Phase
    reason: str = ""
    known: bool = True


class Provider(ABC):
    """Where VMs run. Constructors only store their arguments; every effect is in the methods.

    A subclass sets `name`, `user_data_limit` and `option_schema` as class attributes, has the four abstract methods,
    and the class method `create`. The rest has defaults, which suit a provider of machines that cost nothing: an
    attribute is overridden by a class attribute or by a property, `reaches_loopback` by a class attribute alone.

    Errors are `provisioner.errors`: BadInput for options the provider can't serve, Refused for a permanent no,
    Unreachable for what may work later, MissingDependency for a program or privilege that is not there.
    """

    # Asked of the class, before a provider is made: its VMs reach this machine's loopback, and so the embedded store.
    reaches_loopback: ClassVar[bool] = False

    @classmethod
    def create(cls, context: Context) -> Provider:
        """Make the provider that a job names. A class that an entry point or `registry.BUILT_IN` names must have it."""
        raise TypeError(f"{cls.__name__} has no class method create(context), so no job can name it")

    @property
    @abstractmethod
    def name(self) -> str:
        """The value of ``vm.provider`` that selects it."""

    @property
    @abstractmethod
    def user_data_limit(self) -> int:
        """The most bytes of user-data that it takes, as this provider counts them."""

    @property
    @abstractmethod
    def option_schema(self) -> Mapping[str, Any]:
        """The keys that it takes under ``vm``, as the "properties" of a JSON Schema."""

    @abstractmethod
    def launch(self, order: Order) -> Sequence[Instance]:
        """Start one VM per task of the order, or find those that an earlier call with the same token started."""

    @abstractmethod
    def state(self, instances: Sequence[Instance]) -> Mapping[str, State]:
        """Tell how each instance is doing, by id. An id it has never heard of is GONE."""

    @abstractmethod
    def console(self, instance: Instance) -> bytes:
        """Return what the VM printed so far, as far as the provider keeps it; empty when there is nothing."""

    @abstractmethod
    def terminate(self, instances: Sequence[Instance]) -> None:
        """End these VMs and free what they hold. Safe to repeat; ids it has never heard of are ignored."""

    @property
    def has_guest(self) -> bool:
        """Whether a guest's cloud-init reads the user-data; False where the agent runs without one, as the operator."""
        return True

    @property
    def notice(self) -> str:
        """What people should know before they rely on it; empty for nothing."""
        return ""

    @property
    def raw_limit(self) -> int:
        """The most bytes of user-data that it takes where gzip is refused."""
        return self.user_data_limit

    @property
    def concurrency(self) -> int:
        """How many orders may be in flight at a time."""
        return 1

    @property
    def groups(self) -> bool:
        """Whether an order may have several tasks."""
        return False

    @property
    def pinned_options(self) -> Mapping[str, Any]:
        """Options that this machine's configuration decided; the record keeps them, so that others find the VMs."""
        return {}

    def guest_url(self, url: str) -> str:
        """Return the URL by which its VMs reach what the operator reaches at `url`.

        To a machine on this host, the host's loopback has another address. A POST policy doesn't sign the host; a
        presigned GET does.
        """
        return url

    def choices(self, options: Mapping[str, Any]) -> Sequence[Choice]:
        """Resolve a job's options to what may be ordered, the best first. NoCapacity of one leads to the next.

        Where there is no choice to make: the options as they are.
        """
        return [Choice("", options)]

    def find_instances(self, order: Order) -> Sequence[Instance] | None:
        """Return the VMs that this order started, dead ones included, as far as the provider remembers.

        None from a provider that can't look for them: launching an order of the same token again finds them.
        """
        return None

    def list_instances(self, job: str) -> Sequence[Instance]:
        """Return every VM of a job that is not gone, as far as the provider can tell."""
        return ()

    def list_resources(self) -> Sequence[ProviderResource]:
        """Return everything of Freepost's that exists there, as far as the provider can tell."""
        return ()

    def remove_resources(self, resources: Sequence[ProviderResource]) -> None:
        """Remove these, which `list_resources` returned. Safe to repeat."""
        self.terminate([Instance(each.id, "", 0) for each in resources])

    def checks(self, options: Mapping[str, Any], vms: int) -> Sequence[Check]:
        """Tell, without paying for anything, whether a job of `vms` VMs could be launched."""
        return [Check(self.name, good=None, text="this provider has nothing to check")]

    def stop_waiting(self) -> None:
        """Let calls that wait for their turn give up: the launch was interrupted."""
        return
