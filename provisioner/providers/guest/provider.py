"""The four methods of a provider, for machines that a supervisor process watches over."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from provisioner import units
from provisioner.clock import from_seconds
from provisioner.errors import BadInput, FreepostError, NotFound, Refused
from provisioner.job.fields import flag, size, text
from provisioner.paths import state_dir
from provisioner.providers.base import Check, Instance, Leftover, Order, Phase, State
from provisioner.providers.guest import cgroup, images, supervisor_client
from provisioner.providers.guest.commands import said
from provisioner.providers.guest.state_dir import GONE, PENDING, Home, homes, sweep
from provisioner.providers.registry import Context
from provisioner.userdata import seed

HOST = "10.0.2.2"  # what the guest calls the host's loopback
REMEMBERED = 7 * 86_400  # seconds that a machine which is gone can still be asked about


@dataclass(frozen=True)
class GuestProvider(ABC):
    """Runs machines here. `endpoint_url` is the store's; its port is the only one of the host that guests reach."""

    endpoint_url: str = ""
    folder: Path | None = None
    cache: Path | None = None

    name: ClassVar[str]
    user_data_limit: ClassVar[int] = 1 << 20  # NoCloud sets none
    option_schema: ClassVar[Mapping[str, Any]] = {
        "image": text(
            "A suite, or the name of an imported image.",
            f"{', '.join(images.SUITES)}, or an imported name",
            r"^[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,63}$",
            default=images.DEFAULT,
        ),
        "memory": size("The machine's memory.", 128 << 20, 1 << 40, default="1GiB"),
        "cpus": {"type": "integer", "minimum": 1, "maximum": 256, "description": "How many processors.", "default": 1},
        "disk": size("The machine's disk; it takes up only what is written.", 1 << 30, 1 << 44, default="8GiB"),
        "keep_disk": flag("Keep the disk after the machine has powered off, until it is terminated."),
    }

    @classmethod
    def create(cls, context: Context) -> GuestProvider:
        """Make the provider as the command line needs it."""
        return cls(context.store_endpoint_url, context.state_dir / "machines")

    def launch(self, order: Order) -> Sequence[Instance]:
        """Start one machine per task. When one can't be started, those before it run on and a second call goes on."""
        if len(order.user_data) > self.user_data_limit:
            raise BadInput(f"The user-data has {len(order.user_data)} bytes; {self.name} takes {self.user_data_limit}.")
        options = self._options(order)
        image = images.find(options["image"], self.cache)
        self._check(image)
        self._forget()
        instances = []
        with contextlib.ExitStack() as stack:
            started, failures = [], []
            for index, task in enumerate(order.tasks):
                instance = Instance(f"{machine_id(self.name, order.token)}-{index}", task, order.attempt)
                instances.append(instance)
                home = self._home(instance.id)
                stack.enter_context(home.launching())
                status = home.status()
                if not status or (status["phase"] == PENDING and not home.alive()):
                    record = self._record(order, instance, options, image)
                    mac = record["mac"] if not image.kernel else ""
                    files = seed.seed_files(instance.id, order.user_data, mac=mac)
                    try:
                        started.append((home, self._start(home, record, files, image, options["disk"])))
                    except (OSError, subprocess.CalledProcessError) as error:
                        failures.append(said(error))
                        break
            failures += [failure for home, launch in started if (failure := supervisor_client.outcome(home, launch))]
            if failures:
                raise Refused(f"A machine could not be started: {failures[0]}", hint=f"Its folder: {self._folder()}")
        return instances

    def _start(
        self, home: Home, record: dict[str, Any], files: dict[str, bytes], image: images.Image, size: int
    ) -> subprocess.Popen[bytes]:
        """Make a machine's folder and start its supervisor. On any failure nothing is left, least of all the grant."""
        try:
            self._make_disk(home, image, size)
            home.prepare(record, files)
            return supervisor_client.start(home)
        except BaseException:
            home.remove()
            raise

    def state(self, instances: Sequence[Instance]) -> Mapping[str, State]:
        """Tell how each machine is doing. One whose supervisor was killed is GONE, and what it left is removed."""
        return {instance.id: self._state(instance.id) for instance in instances}

    def console(self, instance: Instance) -> bytes:
        """The last 4 to 8 MiB of what the guest printed; kept for a week after its end, or until it is terminated."""
        return self._home(instance.id).console()

    def terminate(self, instances: Sequence[Instance]) -> None:
        """End these machines at once and delete their disks. The console stays."""
        known = [home for home in (self._home(instance.id) for instance in instances) if home.exists()]
        with contextlib.ExitStack() as stack:
            for home in known:
                stack.enter_context(home.launching())
            supervisor_client.end(known, signal.SIGTERM)
            for home in known:
                self._bury(home, "terminated", keep_disk=False)

    def guest_url(self, endpoint_url: str) -> str:
        """The URL by which a guest reaches a store that the operator reaches at `endpoint_url`.

        The host's loopback is 10.0.2.2 to the guest. SigV4 signs the Host header of a presigned GET, so what a guest is
        given must be signed for this URL.
        """
        parts = urlsplit(endpoint_url)
        if not _on_this_host(parts.hostname or ""):
            return endpoint_url
        return parts._replace(netloc=f"{HOST}:{parts.port}" if parts.port else HOST).geturl()

    def cut_power(self, instances: Sequence[Instance]) -> None:
        """Kill these machines as a power cut would, and keep their disks for `boot_again`."""
        running = [self._home(instance.id) for instance in instances]
        with contextlib.ExitStack() as stack:
            for home in running:
                stack.enter_context(home.launching())
            supervisor_client.end(running, signal.SIGUSR1)

    def boot_again(self, instance: Instance) -> None:
        """Boot a machine that has ended from the disk that it left. Raise NotFound when it left none."""
        home = self._home(instance.id)
        with home.launching():
            if home.status().get("phase") == GONE:
                supervisor_client.wait([home])  # it has said its last word, and is on its way out
            if home.alive():
                raise Refused(f"{instance.id} still runs.")
            if not home.disk.exists():
                raise NotFound(f"{instance.id} has left no disk.", hint="keep_disk keeps it after a power-off")
            failure = supervisor_client.outcome(home, supervisor_client.start(home))
            if failure:
                raise Refused(f"{instance.id} could not be started: {failure}")

    def of_job(self, job: str) -> Sequence[Instance]:
        """Every machine of a job that is not gone."""
        records = [record for record in self._living() if record["job"] == job]
        return [Instance(record["id"], record["task"], record["attempt"]) for record in records]

    def leftovers(self) -> Sequence[Leftover]:
        """Every machine of ours on this host."""
        return [
            Leftover(
                "vm",
                record["id"],
                record["job"],
                from_seconds(record["expires"]),
                f"{record['id']}: task {record['task']}, attempt {record['attempt']} of {record['job']}",
            )
            for record in self._living()
        ]

    def remove(self, leftovers: Sequence[Leftover]) -> None:
        """End these machines. Safe to repeat."""
        self.terminate([Instance(each.id, "", 0) for each in leftovers])

    def checks(self, options: Mapping[str, Any], vms: int) -> Sequence[Check]:
        """Tell whether this host could boot the image, and has the memory for all the machines."""
        wanted = {**{key: schema["default"] for key, schema in self.option_schema.items()}, **options}
        memory = units.size(wanted["memory"]) * vms
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        plenty = Check(
            "memory",
            memory <= there,
            f"{vms} machines have {memory >> 20} MiB, this host {there >> 20} MiB",
            "lower vm.memory",
        )
        try:
            self._check(images.find(wanted["image"], self.cache))
        except FreepostError as error:
            return [Check(self.name, good=False, text=error.message, hint=error.hint), plenty]
        return [Check(self.name, good=True, text=f"boots {wanted['image']} here"), plenty]

    def _living(self) -> Iterator[dict[str, Any]]:
        """The records of the machines that are not gone."""
        for home in homes(self._folder()):
            try:
                record = home.record()
            except FileNotFoundError:
                continue
            if record["provider"] == self.name and self._state(home.path.name).phase is not Phase.GONE:
                yield record

    @abstractmethod
    def _check(self, image: images.Image) -> None:
        """Raise MissingDependency or BadInput if this provider can't boot the image here."""

    @abstractmethod
    def _make_disk(self, home: Home, image: images.Image, size: int) -> None:
        """Make the machine's empty disk of `size` bytes."""

    def _accel(self, image: images.Image) -> str:  # noqa: ARG002 - those below need it
        """How the guest's processor is made, in QEMU's words."""
        return ""

    def _home(self, name: str) -> Home:
        if not name.isascii() or not name.replace("-", "").isalnum():
            raise BadInput(f"{name!r} is no machine of {self.name}.")
        return Home(self._folder() / name)

    def _folder(self) -> Path:
        return self.folder or state_dir() / "machines"

    def _options(self, order: Order) -> dict[str, Any]:
        unknown = sorted(set(order.options) - set(self.option_schema))
        if unknown:
            raise BadInput(f"{self.name} has no option {unknown[0]}.", hint=f"It has: {', '.join(self.option_schema)}")
        options = {key: order.options.get(key, schema.get("default")) for key, schema in self.option_schema.items()}
        try:
            sizes = {key: units.size(options[key]) for key in ("memory", "disk")}
        except ValueError as error:
            raise BadInput(f"{error} is not a size.", hint="such as 512MiB or 8GiB") from None
        return {**options, **sizes}

    def _record(self, order: Order, instance: Instance, options: dict[str, Any], image: images.Image) -> dict[str, Any]:
        endpoint = urlsplit(self.endpoint_url)
        store = [endpoint.hostname, endpoint.port or {"https": 443}.get(endpoint.scheme, 80)]
        return {
            "id": instance.id,
            "provider": self.name,
            "job": order.job,
            "task": instance.task,
            "attempt": instance.attempt,
            "expires": order.expires.timestamp(),
            "image": {
                "folder": str(image.disk.parent),
                "root": str(image.root) if image.root else None,
                "disk": str(image.disk),
                "disk_format": image.disk_format,
                "kernel": str(image.kernel) if image.kernel else None,
                "initrd": str(image.initrd) if image.initrd else None,
            },
            "memory": options["memory"],
            "cpus": options["cpus"],
            "keep_disk": options["keep_disk"],
            "store": store if _on_this_host(endpoint.hostname or "") else None,
            "mac": "52:54:00:" + hashlib.sha256(instance.id.encode()).digest()[:3].hex(":"),
            "accel": self._accel(image),
        }

    def _state(self, name: str) -> State:
        home = self._home(name)
        status = home.status()
        if status and status["phase"] != GONE and not home.alive():
            with home.launching():
                self._bury(home, "its supervisor was killed", keep_disk=True)
            status = home.status()
        if not status:
            return State(Phase.GONE, "never launched here")
        return State(Phase(status["phase"]), status["reason"])

    def _bury(self, home: Home, reason: str, *, keep_disk: bool) -> None:
        """Put down that a machine has ended and delete what is left of it, unless its supervisor lives."""
        if home.alive() or not home.exists():
            return
        if home.status().get("phase") != GONE:
            cgroup.remove(home.path.name)  # the one thing that the kernel keeps
            home.say(GONE, reason)
        home.clean(keep_disk=keep_disk)

    def _forget(self) -> None:
        """Delete what is left of machines that ended long ago, and of launches that were killed in the midst of one."""
        sweep(self._folder())
        for home in homes(self._folder()):
            with contextlib.suppress(BlockingIOError):  # somebody has it in hand
                if home.forgettable(REMEMBERED):
                    with home.launching(wait=False):
                        if home.forgettable(REMEMBERED):  # still
                            home.remove()


def machine_id(provider: str, token: str) -> str:
    """Name the machines of an order: the same token, the same name. It is a host name and a control group's, too."""
    return f"{provider}-{hashlib.sha256(token.encode()).hexdigest()[:12]}"


def _on_this_host(name: str) -> bool:
    """Tell whether a host name is this host's loopback. Other names are left to DNS in the guest."""
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
