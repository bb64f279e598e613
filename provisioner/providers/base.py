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
    """One request for VMs that share one user-data: one task a VM, in the order of `tasks`.

    `token` is the same for the same order, at most 64 ASCII characters: launching an order a second time finds
    the VMs of the first. `options` is the job's ``vm`` mapping without the keys that every provider has.
    The user-data holds a signed policy: never log an order's repr (it leaves the bytes out).
    """

    job: str
    tasks: tuple[str, ...]
    attempt: int
    token: str
    expires: datetime
    user_data: bytes = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Instance:
    """A VM as the provider names it, and the task it was launched for."""

    id: str
    task: str
    attempt: int


class Phase(Enum):
    """How a VM is doing. GONE covers terminated, powered off and never heard of: it will do no more work."""

    PENDING = "pending"
    RUNNING = "running"
    GONE = "gone"


@dataclass(frozen=True)
class State:
    """A VM's phase and, in the provider's words, why."""

    phase: Phase
    reason: str = ""


class Provider(Protocol):
    """Where VMs run. Constructors only store their arguments; every effect is in these four methods.

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
