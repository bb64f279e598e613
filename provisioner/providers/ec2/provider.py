"""The ``ec2`` provider: the methods of `providers.base`, by calls of EC2."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from provisioner.clock import from_iso, utc_now
from provisioner.errors import Conflict, FreepostError, NoCapacity, NotFound, Stopped, Unreachable
from provisioner.providers.base import (
    EC2_LIMIT,
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
from provisioner.providers.ec2 import preflight, requests, resolve
from provisioner.providers.ec2.api import PAGE, Api, find_instance_ids
from provisioner.providers.ec2.errors import classify
from provisioner.providers.ec2.options import SCHEMA
from provisioner.providers.ec2.rate import RateLimits

LIVE = ("pending", "running", "stopping", "stopped")
PHASES = {"pending": Phase.PENDING, "running": Phase.RUNNING}  # every other state will do no more work
TAG_TRIES = 4  # to tag a VM that EC2 doesn't know yet: the task matters more
SPOT_REASON = "Server.SpotInstanceTermination"

_log = logging.getLogger(__name__)


class Ec2Provider(Provider):
    """Launches EC2 instances that hold no credentials and end themselves."""

    name: ClassVar[str] = "ec2"
    user_data_limit: ClassVar[int] = EC2_LIMIT
    option_schema: ClassVar[Mapping[str, Any]] = SCHEMA
    concurrency: ClassVar[int] = 16

    def __init__(self, options: Mapping[str, Any], limits: RateLimits | None = None) -> None:
        self._options = options
        self._api = Api(options, limits)
        self._sent: set[str] = set()
        self._too_young: Counter[str] = Counter()

    @classmethod
    def create(cls, context: Context) -> Ec2Provider:
        """Connect when the first call is made."""
        return cls(context.options)

    @property
    def groups(self) -> bool:
        """Whether an order may have several tasks: RunInstances numbers its VMs, a fleet doesn't."""
        return not self._options.get("fleet")

    @property
    def notice(self) -> str:
        """A warning about an instance profile; empty without one."""
        if not self._options.get("instance_profile"):
            return ""
        return (
            "vm.instance_profile gives the VM credentials of that role, which anything that runs there as root can "
            "take; a job of Freepost's needs none to bring its results home"
        )

    @property
    def pinned_options(self) -> Mapping[str, Any]:
        """The region, which this machine's own configuration may have decided."""
        return {"region": self._api.region}

    def stop_waiting(self) -> None:
        """Let calls that wait for their turn under EC2's limits give up."""
        self._api.limits.stop()

    def choices(self, options: Mapping[str, Any]) -> Sequence[Choice]:
        """Return types × places × markets, the best first, everything by id."""
        return resolve.choices(self._api, options)

    def launch(self, order: Order) -> Sequence[Instance]:
        """Start an order's VMs, all or none, or find those that it started before."""
        if not order.fresh or order.token in self._sent:
            known = self._find_sent(order)
            if known:
                return known
        self._sent.add(order.token)
        try:
            return self._run_fleet(order) if order.options.get("fleet") else self._run_instances(order)
        except Conflict:
            # The token was used before. If that made VMs of this order and one lives, they are the ones to return.
            known = self._find_sent(order)
            if not known or all(state.phase is Phase.GONE for state in self.state(known).values()):
                raise
            return known

    def _find_sent(self, order: Order) -> Sequence[Instance]:
        """Return the VMs of an order that was sent. While they can't be looked for, nobody knows what became of it."""
        try:
            return self.find_instances(order)
        except Stopped:
            raise
        except FreepostError as error:
            message = f"an order was sent and its VMs can't be looked for: {error.message}"
            raise Unreachable(message, hint=error.hint) from error

    def find_instances(self, order: Order) -> Sequence[Instance]:
        """Return the VMs of an order by its tag, also dead ones; finish what a launch that was cut off left undone."""
        # The tag is set by the call that makes the instance: no instance has the token and not the tag.
        found = list(self._describe(_filters({f"tag:{requests.ORDER}": [order.token]})))
        if found and order.options.get("fleet"):  # a launch that was cut off may have left its template
            self._delete_template(requests.template_name(order))
        return self._claim(order, found)

    def state(self, instances: Sequence[Instance]) -> Mapping[str, State]:
        """Return how each VM is doing and why, 1,000 to a request."""
        unknown = State(Phase.GONE, "EC2 knows no such instance", known=False)
        states = dict.fromkeys((item.id for item in instances), unknown)
        for batch in _batches(list(states)):
            for found in self._call_for_known(batch, lambda ids: list(self._describe({"InstanceIds": ids}))):
                states[found["InstanceId"]] = State(PHASES.get(found["State"]["Name"], Phase.GONE), state_reason(found))
        return states

    def console(self, instance: Instance) -> bytes:
        """Return what the VM printed, as fresh as EC2 has it."""
        try:
            try:
                answer = self._api.call("get_console_output", {"InstanceId": instance.id, "Latest": True})
            except NotFound:
                raise
            except FreepostError as error:
                if "UnsupportedOperation" not in error.message:
                    raise
                answer = self._api.call("get_console_output", {"InstanceId": instance.id})  # not a Nitro instance
        except NotFound:
            return b""
        return str(answer.get("Output", "")).encode()

    def terminate(self, instances: Sequence[Instance]) -> None:
        """End these VMs, 1,000 to a request; ids that EC2 knows nothing of are ignored."""
        for batch in _batches([item.id for item in instances]):
            self._call_for_known(batch, lambda ids: [self._api.call("terminate_instances", {"InstanceIds": ids})])

    def list_instances(self, job: str) -> Sequence[Instance]:
        """Return every VM of a job that is not gone."""
        wanted = {f"tag:{requests.JOB}": [job], "instance-state-name": list(LIVE)}
        return [requests.instance_of(found) for found in self._describe(_filters(wanted))]

    def list_resources(self) -> Sequence[ProviderResource]:
        """Return every VM, and every launch template, that carries our tag."""
        alive = _filters({"tag-key": [requests.JOB], "instance-state-name": list(LIVE)})
        found = [_resource("vm", each["InstanceId"], each) for each in self._describe(alive)]
        templates = self._api.paginate(
            "describe_launch_templates", "LaunchTemplates", _filters({"tag-key": [requests.JOB]})
        )
        return [*found, *(_resource("template", each["LaunchTemplateId"], each) for each in templates)]

    def remove_resources(self, resources: Sequence[ProviderResource]) -> None:
        """End these VMs and delete these templates."""
        self.terminate([Instance(each.id, "", 0) for each in resources if each.kind == "vm"])
        for each in resources:
            if each.kind == "template":
                with contextlib.suppress(NotFound):
                    self._api.call("delete_launch_template", {"LaunchTemplateId": each.id})

    def checks(self, options: Mapping[str, Any], vms: int) -> Sequence[Check]:
        """Check credentials, image, places, permissions and quota, for `provision doctor`."""
        return list(preflight.checks(self._api, options, vms, utc_now()))

    def _run_instances(self, order: Order) -> Sequence[Instance]:
        answer = self._api.call("run_instances", requests.run_instances(order), instances=len(order.tasks))
        return self._claim(order, answer["Instances"])

    def _run_fleet(self, order: Order) -> Sequence[Instance]:
        """Launch an order as an instant fleet. Its launch template, which holds the user-data, is always deleted."""
        template = requests.create_launch_template(order)
        try:
            self._api.call("create_launch_template", template)
        except FreepostError as error:
            if "AlreadyExists" not in error.message:
                raise
            # A launch of the same task and attempt was cut off. Its user-data may differ: it was signed earlier.
            self._delete_template(template["LaunchTemplateName"])
            self._api.call("create_launch_template", template)
        try:
            answer = self._api.call("create_fleet", requests.create_fleet(order), instances=1)
        finally:
            self._delete_template(template["LaunchTemplateName"])
        ids = [each for found in answer.get("Instances", ()) for each in found["InstanceIds"]]
        if ids:
            return [Instance(each, task, order.attempt) for each, task in zip(ids, order.tasks, strict=False)]
        errors = [
            classify(each.get("ErrorCode", ""), each.get("ErrorMessage", ""), "CreateFleet")
            for each in answer.get("Errors", ())
        ]
        for cause in errors:
            if isinstance(cause, Unreachable):  # sent again as it is, the order would be answered with the same fleet
                raise Conflict(cause.message, hint=cause.hint)
            if not isinstance(cause, NoCapacity):
                raise cause
        messages = dict.fromkeys(each.message for each in errors)
        raise NoCapacity("; ".join(messages) or "EC2 answered CreateFleet with no instance and no error")

    def _delete_template(self, name: str) -> None:
        try:
            self._api.call("delete_launch_template", {"LaunchTemplateName": name})
        except NotFound:
            return
        except FreepostError as error:
            # The VM matters more. The template is tagged, and `provision gc` finds it.
            _log.warning("a launch template is left behind, provision gc removes it: %s", error.message)

    def _claim(self, order: Order, found: Sequence[Mapping[str, Any]]) -> list[Instance]:
        """Return the VMs that an order got, each tagged with its own task, which one call for many can't do."""
        claimed = []
        for each in found:
            index = int(each.get("AmiLaunchIndex", 0)) if len(order.tasks) > 1 else 0
            instance = Instance(each["InstanceId"], order.tasks[index], order.attempt)
            if requests.tags_of(each).get(requests.TASK) != instance.task and PHASES.get(each["State"]["Name"]):
                self._tag_task(order, instance)
            claimed.append(instance)
        return claimed

    def _tag_task(self, order: Order, instance: Instance) -> None:
        own = requests.tag_list(requests.task_tags(order.job, instance.task))
        try:
            self._api.call("create_tags", {"Resources": [instance.id], "Tags": own})
        except NotFound as error:
            # It was described just now, so it is too young to be known everywhere.
            self._too_young[instance.id] += 1
            if self._too_young[instance.id] < TAG_TRIES:
                raise Unreachable(
                    f"{instance.id} can't be tagged yet: {error.message}", hint="try again later"
                ) from error
            _log.warning("%s has the tags of its group, not its task's own: %s", instance.id, error.message)
        except Unreachable:
            raise  # tried again, and then found by the order's tag
        except FreepostError as error:
            # A policy may allow tags only at launch, or the session has just ended. The VM runs and has the order's
            # tags; its launch index says which task it is.
            _log.warning("%s has the tags of its group, not its task's own: %s", instance.id, error.message)

    def _describe(self, wanted: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        paging = {} if "InstanceIds" in wanted else {"MaxResults": PAGE}
        for reservation in self._api.paginate("describe_instances", "Reservations", {**wanted, **paging}):
            yield from reservation["Instances"]

    def _call_for_known(self, ids: list[str], ask: Callable[[list[str]], list[Any]]) -> list[Any]:
        """Call `ask` with the ids that EC2 knows: it refuses a whole request for one that it doesn't, and names it."""
        remaining = list(ids)
        while remaining:
            try:
                return ask(remaining)
            except NotFound as error:
                unknown = find_instance_ids(error.message)
                if not unknown & set(remaining):
                    # The sentence names none of them: halve the list until the unknown ones are found.
                    half = len(remaining) // 2
                    first, second = remaining[:half], remaining[half:]
                    return self._call_for_known(first, ask) + self._call_for_known(second, ask) if half else []
                remaining = [each for each in remaining if each not in unknown]
        return []


def state_reason(found: Mapping[str, Any]) -> str:
    """Return why an instance is in its state, as EC2 puts it; a spot interruption in plain English."""
    why = found.get("StateReason", {})
    if why.get("Code") == SPOT_REASON:
        return "interrupted: EC2 took the spot capacity back"
    return str(why.get("Message") or found.get("StateTransitionReason") or "")


def _filters(wanted: Mapping[str, list[str]]) -> dict[str, Any]:
    return {"Filters": [{"Name": name, "Values": values} for name, values in wanted.items()]}


def _batches(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), PAGE):
        yield ids[start : start + PAGE]


def _resource(kind: str, name: str, found: Mapping[str, Any]) -> ProviderResource:
    tags = requests.tags_of(found)
    try:
        expires = from_iso(tags.get(requests.EXPIRES, ""))
    except ValueError:
        expires = None  # tagged by somebody else
    task = tags.get(requests.TASK) or tags.get(requests.TASKS) or "?"
    return ProviderResource(
        kind, name, tags.get(requests.JOB, "?"), expires, f"task {task} of {tags.get(requests.JOB)}"
    )
