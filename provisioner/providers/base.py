"""The Protocol that every provider follows, and the words it speaks. tests/contract/ holds the suite that each passes.

A provider does one thing once: no retry (the caller wraps it in `provisioner.retry`), no policy, no bucket.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True)
class Order:
    """One request for VMs that share one user-data: one task a VM, in the order of `tasks`, all of them or none.

    `token` is the same for the same order, at most 64 ASCII characters: launching an order a second time finds
    the VMs of the first. `options` is the job's ``vm`` mapping without the keys that every provider has.
    `fresh` says that it was certainly never sent before, so that looking for its VMs can be spared.
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

    `name` says it to people (``c7g.large in eu-west-1a, spot``) and is part of the order's token.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Leftover:
    """Something of ours that a provider still has: a VM, or what launching one needed.

    `kind` is ``vm`` or the provider's own word; `expires` is when it ought to be gone, if that is known.
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
    """A VM's phase and, in the provider's words, why. Not `known`: it isn't listed, which a young VM may not be yet."""

    phase: Phase
    reason: str = ""
    known: bool = True


class Provider(Protocol):
    """Where VMs run. Constructors only store their arguments; every effect is in these four methods.

    A provider may have more, each looked for by name and done without where it is missing (`Cloud` types them):
    ``concurrency`` (orders in flight at a time, 1), ``groups`` (an order may have several tasks, False), ``choices``,
    ``find``, ``of_job``, ``pinned``, ``notice`` (what people should know),
    ``raw_limit`` (how much plain user-data it takes), ``leftovers``, ``remove``, ``checks``.

    Errors are `provisioner.errors`: BadInput for options the provider can't serve, Refused for a permanent no,
    Unreachable for what may work later, MissingDependency for a program or privilege that is not there.
    """

    name: ClassVar[str]
    user_data_limit: ClassVar[int]  # bytes, as this provider counts them
    option_schema: ClassVar[Mapping[str, Any]]  # JSON Schema "properties" of the keys it takes under `vm`

    def launch(self, order: Order) -> Sequence[Instance]:
        """Start one VM per task of the order, or find those that an earlier call with the same token started."""
        ...

    def state(self, instances: Sequence[Instance]) -> Mapping[str, State]:
        """Tell how each instance is doing, by id. An id it has never heard of is GONE."""
        ...

    def console(self, instance: Instance) -> bytes:
        """What the VM printed so far, as far as the provider keeps it; empty when there is nothing."""
        ...

    def terminate(self, instances: Sequence[Instance]) -> None:
        """End these VMs and free what they hold. Safe to repeat; ids it has never heard of are ignored."""
        ...


class Cloud(Provider, Protocol):
    """A provider whose VMs cost money and outlive this machine."""

    concurrency: ClassVar[int]

    @property
    def groups(self) -> bool:
        """Whether an order may have several tasks."""
        ...

    @property
    def pinned(self) -> Mapping[str, Any]:
        """Options that this machine's configuration decided; the record keeps them, so that others find the VMs."""
        ...

    def choices(self, options: Mapping[str, Any]) -> Sequence[Choice]:
        """Resolve a job's options to what may be ordered, the best first. NoCapacity of one leads to the next."""
        ...

    def find(self, order: Order) -> Sequence[Instance]:
        """The VMs that this order started, dead ones included, as far as the provider remembers."""
        ...

    def of_job(self, job: str) -> Sequence[Instance]:
        """Every VM of a job that is not gone."""
        ...

    def leftovers(self) -> Sequence[Leftover]:
        """Everything of Freepost's that exists there."""
        ...

    def abandon(self) -> None:
        """Let calls that wait for their turn give up: the launch was interrupted."""
        ...

    def remove(self, leftovers: Sequence[Leftover]) -> None:
        """Remove these. Safe to repeat."""
        ...

    def checks(self, options: Mapping[str, Any], vms: int) -> Sequence[Check]:
        """Tell, without paying for anything, whether a job of `vms` VMs could be launched."""
        ...


def guest_url(provider: Provider, url: str) -> str:
    """The URL by which a provider's VMs reach what the operator reaches at `url`.

    The same, unless the provider has a method of this name that says otherwise: to a machine on this host, the host's
    loopback has another address. A POST policy doesn't sign the host; a presigned GET does.
    """
    translate = getattr(provider, "guest_url", None)
    return str(translate(url)) if translate else url


def raw_limit(provider: Provider) -> int:
    """How large user-data may be that isn't gzipped: as large as any, unless the provider has a `raw_limit`."""
    return int(getattr(provider, "raw_limit", provider.user_data_limit))
