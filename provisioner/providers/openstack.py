"""The ``openstack`` provider: Nova servers through openstacksdk, the extra ``freepost[openstack]``.

Nova has no client tokens. A server is named after its order's token, so that the same order finds it; two launchers at
once may each make one, and `find_instances` returns the older. A server that ends itself is powered off, and still
there (and, on some clouds, paid for) until `terminate` or `provision gc` deletes it. Nova finds a lack of room after it
has accepted the request: such a server is in ERROR, which counts as gone, and the job's retries go on from there.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, ClassVar, TypeAlias

from provisioner.clock import from_iso, iso
from provisioner.errors import (
    BadInput,
    FreepostError,
    MissingDependency,
    NoCredentials,
    NotFound,
    OverQuota,
    Refused,
    Throttled,
    Unreachable,
)
from provisioner.job.fields import PRINTABLE, text
from provisioner.providers.base import (
    Check,
    Choice,
    Context,
    Instance,
    Order,
    Phase,
    Provider,
    ProviderResource,
    State,
)
from provisioner.providers.options import one_or_more

Connection: TypeAlias = Any  # the SDK types neither its connection nor what it answers
Server: TypeAlias = Any

JOB, TASK, ATTEMPT, TOKEN, EXPIRES = (f"freepost_{word}" for word in ("job", "task", "attempt", "order", "expires"))
PHASES = {"BUILD": Phase.PENDING, "ACTIVE": Phase.RUNNING, "REBOOT": Phase.RUNNING, "HARD_REBOOT": Phase.RUNNING}
_QUOTA = (HTTPStatus.FORBIDDEN, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)  # where its sentence names a quota
_THROTTLED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
_DETAIL_LENGTH = 300  # characters of OpenStack's own sentence


class OpenstackProvider(Provider):
    """Launches Nova servers. The connection is that of clouds.yaml or of the OS_… variables, as the SDK finds it."""

    name: ClassVar[str] = "openstack"
    user_data_limit: ClassVar[int] = 65_535 // 4 * 3  # Nova counts base64 (API reference, "Create Server")
    concurrency: ClassVar[int] = 8
    groups: ClassVar[bool] = False  # its metadata service has no tokens, which the agent insists on
    notice: ClassVar[str] = "a server that has ended stays, powered off, until provision terminate or gc deletes it"
    option_schema: ClassVar[Mapping[str, Any]] = {
        "cloud": text("The cloud's name in clouds.yaml.", "a name", PRINTABLE, maxLength=200),
        "region": text("The region.", "the name of a region", PRINTABLE, maxLength=200),
        "image": text("What boots; anything with cloud-init.", "an image's name or id", PRINTABLE, maxLength=255),
        "type": one_or_more("Flavors, the best first.", text("", "a flavor's name or id", PRINTABLE, maxLength=255)),
        "zones": one_or_more(
            "Availability zones, the best first.", text("", "the name of a zone", PRINTABLE, maxLength=255)
        ),
        "network": text(
            "The network; needed if the project has more than one.", "its name or id", PRINTABLE, maxLength=255
        ),
        "security_groups": one_or_more(
            "Security groups, instead of the project's default one.",
            text("", "the name of a group", PRINTABLE, maxLength=255),
        ),
        "key": text("A key pair for SSH; none if not given.", "its name", PRINTABLE, maxLength=255),
    }

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    @classmethod
    def create(cls, context: Context) -> OpenstackProvider:
        """Connect when the first call is made."""
        return cls(context.options)

    def choices(self, options: Mapping[str, Any]) -> Sequence[Choice]:
        """Return flavors × zones, the best first, everything by id."""
        missing = [f"vm.{key}" for key in ("image", "type") if not options.get(key)]
        if missing:
            raise BadInput(
                f"OpenStack needs {' and '.join(missing)}",
                hint="list them: openstack image list; openstack flavor list",
            )
        with self._translating("find the image"):
            image = self._cloud.image.find_image(options["image"], ignore_missing=False).id
        fixed: dict[str, Any] = {"image": image}
        if options.get("network"):
            with self._translating("find the network"):
                fixed["network"] = self._cloud.network.find_network(options["network"], ignore_missing=False).id
        for key in ("key", "security_groups"):
            if options.get(key):
                fixed[key] = options[key]
        flavors = []
        for flavor in options["type"]:
            with self._translating(f"find the flavor {flavor}"):
                flavors.append((flavor, self._cloud.compute.find_flavor(flavor, ignore_missing=False).id))
        places = [(f" in {zone}", {"zone": zone}) for zone in options.get("zones", ())] or [("", {})]
        return [
            Choice(f"{flavor}{where}", {**fixed, "flavor": found, **place})
            for flavor, found in flavors
            for where, place in places
        ]

    def launch(self, order: Order) -> Sequence[Instance]:
        """Start the order's server, or find the one that it started before."""
        if len(order.tasks) != 1:
            raise BadInput("the openstack provider starts one task per launch")
        known = self.find_instances(order)
        if known:
            return known
        with self._translating("create a server"):
            made = self._cloud.compute.create_server(**server_attributes(order))
        return [Instance(made.id, order.tasks[0], order.attempt)]

    def find_instances(self, order: Order) -> Sequence[Instance]:
        """Return the server with the order's name in any state; the oldest where there are several."""
        with self._translating("list servers"):
            found = [
                each
                for each in self._cloud.compute.servers(details=True, name=f"^{server_name(order)}$")
                if (each.metadata or {}).get(TOKEN) == order.token
            ]
        oldest = sorted(found, key=lambda each: str(each.created_at))[:1]
        return [Instance(each.id, order.tasks[0], order.attempt) for each in oldest]

    def state(self, instances: Sequence[Instance]) -> Mapping[str, State]:
        """Return how each server is doing, from one listing; a server that isn't listed is gone."""
        with self._translating("list servers"):
            known = {each.id: each for each in self._cloud.compute.servers(details=True)}
        return {item.id: _state(known.get(item.id)) for item in instances}

    def console(self, instance: Instance) -> bytes:
        """Return what the server printed."""
        try:
            with self._translating("read the console"):
                answer = self._cloud.compute.get_server_console_output(instance.id)
        except NotFound:
            return b""
        return str((answer or {}).get("output") or "").encode()

    def terminate(self, instances: Sequence[Instance]) -> None:
        """Delete these servers."""
        for item in instances:
            with self._translating("delete a server"):
                self._cloud.compute.delete_server(item.id, ignore_missing=True)

    def list_instances(self, job: str) -> Sequence[Instance]:
        """Return every server of a job that exists, powered off or not."""
        return [
            Instance(each.id, each.metadata.get(TASK, "?"), int(each.metadata.get(ATTEMPT, "0")))
            for each in self._our_servers()
            if each.metadata[JOB] == job
        ]

    def list_resources(self) -> Sequence[ProviderResource]:
        """Return every server that carries our metadata, for `provision gc`."""
        found = []
        for each in self._our_servers():
            try:
                expires = from_iso(each.metadata.get(EXPIRES, ""))
            except ValueError:
                expires = None  # written by somebody else
            job = each.metadata[JOB]
            text = f"task {each.metadata.get(TASK, '?')} of {job}"
            found.append(ProviderResource("vm", each.id, job, expires, text))
        return found

    def checks(self, options: Mapping[str, Any], vms: int) -> Sequence[Check]:
        """Tell whether the credentials work, and image, network and flavors are there. Quota is not looked at."""
        try:
            choices = self.choices(options)
        except FreepostError as error:
            return [Check("openstack", good=False, text=error.message, hint=error.hint)]
        named = ", ".join(choice.name for choice in choices)
        return [
            Check("openstack", good=True, text=f"image and network are there; flavors: {named}"),
            Check("quota", good=None, text=f"not looked at for {vms} servers", hint="look it up: openstack quota show"),
        ]

    def _our_servers(self) -> list[Server]:
        """Return every server that carries our metadata."""
        with self._translating("list servers"):
            return [each for each in self._cloud.compute.servers(details=True) if JOB in (each.metadata or {})]

    @property
    def _cloud(self) -> Connection:
        """The connection, made when it is first needed."""
        with self._lock:
            if self._connection is None:
                try:
                    import openstack
                except ModuleNotFoundError:
                    raise MissingDependency(
                        "the openstack provider needs openstacksdk", hint="run: pip install 'freepost[openstack]'"
                    ) from None
                named = {"cloud": self._options.get("cloud"), "region_name": self._options.get("region")}
                self._connection = openstack.connect(**{key: value for key, value in named.items() if value})
            return self._connection

    @contextmanager
    def _translating(self, doing: str) -> Iterator[None]:
        """Turn the SDK's errors into ours; `doing` names what was to be done."""
        try:
            yield
        except FreepostError:
            raise
        except Exception as error:
            found = translate(error, doing)
            if found is None:
                raise
            raise found from None


def server_name(order: Order) -> str:
    """Return the name of an order's server."""
    return f"freepost-{order.token[:32]}"


def server_attributes(order: Order) -> dict[str, Any]:
    """Return the attributes of an order's server, as openstacksdk names them. Pure."""
    options = order.options
    made: dict[str, Any] = {
        "name": server_name(order),
        "image_id": options["image"],
        "flavor_id": options["flavor"],
        "networks": [{"uuid": options["network"]}] if options.get("network") else "auto",
        "user_data": base64.b64encode(order.user_data).decode(),
        "metadata": {
            JOB: order.job,
            TASK: order.tasks[0],
            ATTEMPT: str(order.attempt),
            TOKEN: order.token,
            EXPIRES: iso(order.expires),
        },
    }
    if options.get("zone"):
        made["availability_zone"] = options["zone"]
    if options.get("key"):
        made["key_name"] = options["key"]
    if options.get("security_groups"):
        made["security_groups"] = [{"name": name} for name in options["security_groups"]]
    return made


def _state(server: Server | None) -> State:
    """Return the phase of a server, with Nova's own reason for it."""
    if server is None:
        return State(Phase.GONE, "OpenStack knows no such server")
    fault = (server.fault or {}).get("message", "") if isinstance(server.fault, dict) else ""
    return State(PHASES.get(server.status, Phase.GONE), fault or str(server.status))


def translate(error: Exception, doing: str) -> FreepostError | None:
    """Return what an error of the SDK or of keystoneauth means; None for one that is not of theirs."""
    from keystoneauth1 import exceptions as auth
    from openstack import exceptions as sdk

    status = getattr(error, "status_code", None) or getattr(error, "http_status", None) or 0
    message = f"OpenStack could not {doing}" + f" ({status})" * bool(status)
    detail = str(getattr(error, "details", "") or getattr(error, "message", ""))[:_DETAIL_LENGTH]
    if isinstance(error, auth.Unauthorized) or status == HTTPStatus.UNAUTHORIZED:
        return NoCredentials(
            f"{message}: it doesn't accept the credentials", hint="check clouds.yaml or the OS_… variables"
        )
    if isinstance(error, (auth.ConnectFailure, auth.RetriableConnectionFailure)):
        return Unreachable(f"{message}: {type(error).__name__}", hint="check the auth URL and the network")
    if isinstance(error, (sdk.ConfigException, auth.MissingRequiredOptions, auth.DiscoveryFailure)):
        return BadInput(
            f"{message}: {type(error).__name__}", hint="set vm.cloud to a cloud of clouds.yaml, or OS_… variables"
        )
    if not isinstance(error, (sdk.SDKException, auth.ClientException)):
        return None
    if status in _QUOTA and "uota" in detail:
        return OverQuota(f"{message}: {detail}", hint="ask for a larger quota, or use a smaller flavor")
    if status in _THROTTLED:
        return Throttled(message, hint="try again later")
    if status == HTTPStatus.FORBIDDEN:
        return Refused(f"{message}: {detail}", hint="the credentials need a role that may do this")
    if isinstance(error, sdk.NotFoundException) or status == HTTPStatus.NOT_FOUND:
        return NotFound(f"{message}: {detail or error}", hint="correct vm.image, vm.type or vm.network")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or not status:
        return Unreachable(f"{message}: {type(error).__name__}", hint="try again later")
    return BadInput(f"{message}: {detail}", hint="correct what it names under vm in job.yaml")
