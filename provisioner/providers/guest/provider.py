"""The methods of a provider, for machines that a supervisor process watches over."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from provisioner import units
from provisioner.clock import from_seconds
from provisioner.errors import BadInput, FreepostError, NotFound, Refused
from provisioner.job.fields import flag, size, text
from provisioner.paths import state_dir
from provisioner.providers.base import Check, Context, Instance, Order, Phase, Provider, ProviderResource, State
from provisioner.providers.guest import cgroup, images, supervisor_client
from provisioner.providers.guest.commands import describe_failure
from provisioner.providers.guest.record import guest_url, machine_id, make_record, read_options, relayed_address
from provisioner.providers.guest.state_dir import GONE, PENDING, StateDir, delete_removed, list_machines
from provisioner.userdata import seed

REMEMBERED_SECONDS = 7 * 86_400  # for which a machine that is gone can still be asked about


@dataclass(frozen=True)
class GuestProvider(Provider):
    """Runs machines here. `endpoint_url` is the store's; its port is the only one of the host that guests reach."""

    endpoint_url: str = ""
    folder: Path | None = None
    cache: Path | None = None

    name: ClassVar[str]
    user_data_limit: ClassVar[int] = 1 << 20  # NoCloud sets none
    reaches_loopback: ClassVar[bool] = True  # by another address: `guest_url`
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
            raise BadInput(
                f"the user-data has {len(order.user_data)} bytes; the {self.name} provider takes {self.user_data_limit}"
            )
        options = read_options(self.name, self.option_schema, order.options)
        image = images.find(options["image"], self.cache)
        self._check(image)
        self._remove_stale()
        name = machine_id(self.name, order.token)
        instances = [Instance(f"{name}-{index}", task, order.attempt) for index, task in enumerate(order.tasks)]
        with contextlib.ExitStack() as locks:
            started, failures = [], []
            for instance in instances:
                machine = self._machine(instance.id)
                locks.enter_context(machine.exclusive())
                if _was_started(machine):
                    continue
                record = self._record(order, instance, options, image)
                files = seed.seed_files(instance.id, order.user_data, mac=record["mac"] if not image.kernel else "")
                try:
                    started.append((machine, self._start(machine, record, files, image, options["disk"])))
                except (OSError, subprocess.CalledProcessError) as error:
                    failures.append(describe_failure(error))
                    break
            ended = [supervisor_client.await_start(machine, launcher) for machine, launcher in started]
            failures += filter(None, ended)
            if failures:
                raise Refused(
                    f"a machine could not be started: {failures[0]}",
                    hint=f"check that {self._folder()} is writable and has room, and that the image boots",
                )
        return instances

    def _record(self, order: Order, instance: Instance, options: dict[str, Any], image: images.Image) -> dict[str, Any]:
        return {
            **make_record(order, instance, options, image),
            "provider": self.name,
            "store": relayed_address(self.endpoint_url),
            "accel": self._accel(image),
        }

    def _start(
        self, machine: StateDir, record: dict[str, Any], files: dict[str, bytes], image: images.Image, size: int
    ) -> subprocess.Popen[bytes]:
        """Make a machine's folder and start its supervisor. On any failure nothing is left, least of all the grant."""
        try:
            self._make_disk(machine, image, size)
            machine.prepare(record, files)
            return supervisor_client.start(machine)
        except BaseException:
            machine.remove()
            raise

    def state(self, instances: Sequence[Instance]) -> Mapping[str, State]:
        """Tell how each machine is doing. One whose supervisor was killed is GONE, and what it left is removed."""
        return {instance.id: self._state(instance.id) for instance in instances}

    def console(self, instance: Instance) -> bytes:
        """Return the last 4 to 8 MiB that the guest printed; for a week after its end or until it is terminated."""
        return self._machine(instance.id).console()

    def terminate(self, instances: Sequence[Instance]) -> None:
        """End these machines at once and delete their disks. The console stays."""
        known = [machine for machine in (self._machine(instance.id) for instance in instances) if machine.exists()]
        with contextlib.ExitStack() as stack:
            for machine in known:
                stack.enter_context(machine.exclusive())
            supervisor_client.stop(known, signal.SIGTERM)
            for machine in known:
                self._clean_up(machine, "terminated", keep_disk=False)

    def guest_url(self, url: str) -> str:
        """Return the URL by which a guest reaches it: the host's loopback has another address there."""
        return guest_url(url)

    def cut_power(self, instances: Sequence[Instance]) -> None:
        """Kill these machines as a power cut would, and keep their disks for `boot_again`."""
        running = [self._machine(instance.id) for instance in instances]
        with contextlib.ExitStack() as stack:
            for machine in running:
                stack.enter_context(machine.exclusive())
            supervisor_client.stop(running, signal.SIGUSR1)

    def boot_again(self, instance: Instance) -> None:
        """Boot a machine that has ended from the disk that it left. Raise NotFound when it left none."""
        machine = self._machine(instance.id)
        with machine.exclusive():
            if machine.status().get("phase") == GONE:
                supervisor_client.await_end([machine])  # it has written its last status, and is about to end
            if machine.is_supervised():
                raise Refused(f"{instance.id} still runs")
            if not machine.disk.exists():
                raise NotFound(f"{instance.id} has left no disk", hint="keep_disk keeps it after a power-off")
            failure = supervisor_client.await_start(machine, supervisor_client.start(machine))
            if failure:
                raise Refused(f"{instance.id} could not be started: {failure}")

    def list_instances(self, job: str) -> Sequence[Instance]:
        """Return every machine of a job that is not gone."""
        records = [record for record in self._live_records() if record["job"] == job]
        return [Instance(record["id"], record["task"], record["attempt"]) for record in records]

    def list_resources(self) -> Sequence[ProviderResource]:
        """Return every machine of this provider on this host."""
        return [
            ProviderResource(
                "vm",
                record["id"],
                record["job"],
                from_seconds(record["expires"]),
                f"{record['id']}: task {record['task']}, attempt {record['attempt']} of {record['job']}",
            )
            for record in self._live_records()
        ]

    def checks(self, options: Mapping[str, Any], vms: int) -> Sequence[Check]:
        """Tell whether this host could boot the image, and has the memory for all the machines."""
        wanted = {**{key: schema["default"] for key, schema in self.option_schema.items()}, **options}
        memory = units.size(wanted["memory"]) * vms
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        enough = Check(
            "memory",
            memory <= available,
            f"{vms} machines have {memory >> 20} MiB, this host {available >> 20} MiB",
            "lower vm.memory",
        )
        try:
            self._check(images.find(wanted["image"], self.cache))
        except FreepostError as error:
            return [Check(self.name, good=False, text=error.message, hint=error.hint), enough]
        return [Check(self.name, good=True, text=f"boots {wanted['image']} here"), enough]

    def _live_records(self) -> Iterator[dict[str, Any]]:
        """Yield the records of the machines that are not gone."""
        for machine in list_machines(self._folder()):
            try:
                record = machine.read_record()
            except FileNotFoundError:
                continue
            if record["provider"] == self.name and self._state(machine.path.name).phase is not Phase.GONE:
                yield record

    @abstractmethod
    def _check(self, image: images.Image) -> None:
        """Raise MissingDependency or BadInput if this provider can't boot the image here."""

    @abstractmethod
    def _make_disk(self, machine: StateDir, image: images.Image, size: int) -> None:
        """Make the machine's empty disk of `size` bytes."""

    def _accel(self, image: images.Image) -> str:
        """Return how the guest's processor is made, as QEMU calls it."""
        return ""

    def _machine(self, name: str) -> StateDir:
        if not name.isascii() or not name.replace("-", "").isalnum():
            raise BadInput(f"the {self.name} provider has no machine {name!r}")
        return StateDir(self._folder() / name)

    def _folder(self) -> Path:
        return self.folder or state_dir() / "machines"

    def _state(self, name: str) -> State:
        machine = self._machine(name)
        status = machine.status()
        if status and status["phase"] != GONE and not machine.is_supervised():
            with machine.exclusive():
                self._clean_up(machine, "its supervisor was killed", keep_disk=True)
            status = machine.status()
        if not status:
            return State(Phase.GONE, "never launched here")
        return State(Phase(status["phase"]), status["reason"])

    def _clean_up(self, machine: StateDir, reason: str, *, keep_disk: bool) -> None:
        """Write down that a machine has ended and delete what is left of it, unless its supervisor lives."""
        if machine.is_supervised() or not machine.exists():
            return
        if machine.status().get("phase") != GONE:
            cgroup.remove(machine.path.name)  # the one thing that the kernel keeps
            machine.set_status(GONE, reason)
        machine.clean(keep_disk=keep_disk)

    def _remove_stale(self) -> None:
        """Delete what is left of machines that ended long ago, and of launches that were killed in the midst of one."""
        delete_removed(self._folder())
        for machine in list_machines(self._folder()):
            with contextlib.suppress(BlockingIOError):  # somebody is starting or ending it
                if machine.is_stale(REMEMBERED_SECONDS):
                    with machine.exclusive(wait=False):
                        if machine.is_stale(REMEMBERED_SECONDS):  # still
                            machine.remove()


def _was_started(machine: StateDir) -> bool:
    """Tell whether a machine runs or has run; a launch that was killed before its guest ran has to be made again."""
    status = machine.status()
    return bool(status) and (status["phase"] != PENDING or machine.is_supervised())
