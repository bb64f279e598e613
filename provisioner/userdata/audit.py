"""What is secret in a task's user-data: who can read it, where, and until when.

Pure: it reads the plan, the grant and the rendered document, and holds no secret's value itself. The places in
the guest are those where cloud-init keeps user-data (tests/e2e/test_audit.py searches a booted machine for others).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agent.grant import Grant, Target
from agent.layout import METADATA_IPV4, METADATA_IPV6
from provisioner.clock import iso
from provisioner.errors import BadInput
from provisioner.plan.plan import Plan
from provisioner.s3.signing import url_expiry
from provisioner.s3url import show_url
from provisioner.userdata.render import WORKDIR, UserData
from provisioner.userdata.seed import SEED_FOLDER

_SHOWN = 12  # names of slots in one line
_EVERYONE = "every uid in the guest"
_HOST = "you and root on this machine"
_UNTIL_DISK_DELETED = "until the VM's disk is deleted"
_UNTIL_POWER_OFF = "until the VM powers off"
_INSTANCE_FOLDER = "/var/lib/cloud/instance"  # where cloud-init keeps what it was given


@dataclass(frozen=True)
class Exposure:
    """Where something can be read, by whom, and how long it lies there. `mode` is empty where it is no file."""

    where: str
    mode: str
    readers: str
    until: str


@dataclass(frozen=True)
class Secret:
    """One secret: what whoever has it may do, until when it works, and every place that it is in."""

    name: str
    allows: str
    expires: str
    places: tuple[Exposure, ...]


def find_secrets(plan: Plan, grant: Grant, user_data: UserData, platform: str) -> list[Secret]:
    """List the secrets of a rendered document. `platform` is a provider's name, or empty for any other platform."""
    common = (*copies_in_guest(plan, platform), *_outside(plan, platform))
    in_grant = (_file(user_data, "grant", plan), *common)
    ends = f"until {iso(plan.expires)}"
    targets = {"outputs": grant.outputs, "status": grant.status}
    remote = [_grant_object(plan, grant)] if plan.remote_grant else []
    in_grant = (*in_grant[:1], *remote, *in_grant[1:])
    if plan.by_put:
        found = [
            Secret(f"presigned PUTs: {name}", _allowed_by_puts(each), ends, in_grant) for name, each in targets.items()
        ]
        for name in grant.outputs.fields.get("large", {}):
            allows = f"store, list and put together the parts of {grant.outputs.prefix}{name}, ask how large it is, "
            allows += "and give it up"
            found.append(Secret(f"presigned upload in parts: {name}", allows, ends, in_grant))
    else:
        found = [
            Secret(f"POST policy: {name}", _allowed_by_policy(each), ends, in_grant) for name, each in targets.items()
        ]
    for place in remote:
        allows, until = f"read {place.where}, and so use all of the above", f"until {iso(plan.deadline)}"
        found.append(
            Secret("presigned GET: the grant", allows, until, tuple(each for each in in_grant if each != place))
        )
    if plan.archive and grant.agent:
        allows = f"read {plan.archive.key}: the agent's own code, which is the same for every job and no secret"
        found.append(Secret("presigned GET: the agent", allows, f"until {_url_ends(grant.agent['url'])}", in_grant))
    if any("x-amz-security-token" in json.dumps(each.fields).lower() for each in targets.values()):
        allows = "nothing by itself: it signs only together with its secret key, which isn't here"
        found.append(Secret("session token", allows, ends, in_grant))
    for item in grant.inputs:
        found.append(
            Secret(
                f"presigned GET: {item['path']}", "read this one object", f"until {_url_ends(item['url'])}", in_grant
            )
        )
    if grant.mailbox:
        allows = "read the renewed grant of this task that will be put there, which allows what the two policies do"
        ends = f"until {_url_ends(grant.mailbox['url'])}; none is put there after {grant.mailbox['until']}"
        found.append(Secret("mailbox: presigned GET", allows, ends, in_grant))
    return [*found, *_job_secrets(plan, user_data, common)]


def _job_secrets(plan: Plan, user_data: UserData, common: tuple[Exposure, ...]) -> list[Secret]:
    """What the operator wrote into the job: the command, the environment, the files."""
    run, task = plan.spec.run, _file(user_data, "task", plan)
    allows, works = "whatever you put into it", "for as long as it does elsewhere: Freepost sets it no end"
    job, everyone = f"uid of {_job_user(plan)}, root", _EVERYONE if plan.has_guest else "every user of this machine"
    recorded = _object(plan, plan.keys.record)
    shown = [Exposure("the process list (ps), while the job runs", "", everyone, "until the job ends")]
    if plan.has_guest:  # systemd describes the job's scope by its command
        shown.append(
            Exposure(
                "the guest's journal, which names the job's scope",
                "",
                "root, groups adm and others",
                _UNTIL_DISK_DELETED,
            )
        )
    found = [Secret("run.command", allows, works, (task, *shown, recorded, *common))]
    if run.env:
        environment = Exposure("the environment of the job's processes", "", job, "until the job ends")
        names = ", ".join(f"run.env.{name}" for name in run.env)
        found.append(Secret(names, allows, works, (task, environment, recorded, *common)))
    for item in run.files:
        there = job if not int(item.mode, 8) & 0o004 else everyone
        home = f"{WORKDIR}/{item.path}" if plan.has_guest else f"the job's own folder: {item.path}"
        lies = Exposure(home, item.mode, there, _UNTIL_DISK_DELETED if plan.has_guest else "until the job ends")
        if item in plan.offloaded:
            offloaded = _object(plan, plan.offloaded_entry(item).key, "whoever has its presigned GET")
            found.append(Secret(f"file {item.path}", allows, works, (offloaded, lies, recorded)))
        else:
            inline = _file(user_data, f"file {item.path}", plan)
            found.append(Secret(f"file {item.path}", allows, works, (inline, lies, recorded, *common)))
    return found


def show_secrets(secrets: Sequence[Secret]) -> str:
    """The audit as text: the secrets first, then each place once, with the numbers of the secrets in it."""
    lines = []
    where: dict[Exposure, list[str]] = {}
    for number, secret in enumerate(secrets, 1):
        lines += [f"{number}. {secret.name}", f"   allows  {secret.allows}", f"   works   {secret.expires}"]
        for place in secret.places:
            where.setdefault(place, []).append(str(number))
    lines += ["", "They can be read"]
    for place, numbers in where.items():
        mode = f" ({place.mode})" if place.mode else ""
        lines += [f"- {place.where}{mode}: {','.join(numbers)}", f"    by {place.readers}; {place.until}"]
    return "\n".join(lines)


def as_data(secrets: Sequence[Secret]) -> list[dict[str, Any]]:
    """The audit as JSON."""
    return [asdict(secret) for secret in secrets]


def _job_user(plan: Plan) -> str:
    return plan.spec.run.account or "root"


def _root_readers(plan: Plan) -> str:
    return "uid 0 in the guest" + ("" if plan.spec.run.account else ", and so the job, which runs as root")


def _file(user_data: UserData, section: str, plan: Plan) -> Exposure:
    for file in user_data.files:
        if file.section == section:
            return Exposure(file.path, file.mode, _root_readers(plan), _UNTIL_DISK_DELETED)
    raise BadInput(f"the user-data has no {section}")


def copies_in_guest(plan: Plan, platform: str) -> list[Exposure]:
    """Where in the guest cloud-init keeps user-data, whole or taken apart."""
    if not plan.has_guest:
        return []
    files = {
        f"{_INSTANCE_FOLDER}/user-data.txt": "0600",
        f"{_INSTANCE_FOLDER}/user-data.txt.i": "0600",
        f"{_INSTANCE_FOLDER}/cloud-config.txt": "0600",
        f"{_INSTANCE_FOLDER}/obj.pkl": "0400",
    }
    places = [Exposure(path, mode, _root_readers(plan), _UNTIL_DISK_DELETED) for path, mode in files.items()]
    if platform in _SEED_IN_GUEST:
        places.append(Exposure(f"{SEED_FOLDER}/user-data", "0600", _root_readers(plan), _UNTIL_POWER_OFF))
    return [*places, Exposure("/run/cloud-init/*.json", "0600", _root_readers(plan), _UNTIL_POWER_OFF)]


def _outside(plan: Plan, platform: str) -> list[Exposure]:
    """Where the platform keeps user-data, and hands it out."""
    known = _PLATFORMS.get(platform)
    if known is not None:
        return known(plan)
    return [Exposure("what `render` wrote", "0600", "you, and the platform that you give it to", "until you delete it")]


def _at_ec2(plan: Plan) -> list[Exposure]:
    everyone = f"{_EVERYONE} that reaches IMDS over IPv4 or IPv6"
    # The agent has the kernel prohibit these routes to the job's user (agent/job_process.py); root can't be kept away.
    readers = f"{everyone}, but not {_job_user(plan)}" if plan.spec.run.account else f"{everyone}, root too"
    places = [
        Exposure(f"IMDS, {METADATA_IPV4} and {METADATA_IPV6}, user-data", "", readers, _UNTIL_POWER_OFF),
        Exposure(
            "EC2's API", "", "principals with ec2:DescribeInstanceAttribute", "until EC2 forgets the terminated VM"
        ),
        Exposure(
            "the VM's volume", "", "principals with ec2:CreateSnapshot or ec2:CreateImage on it", _UNTIL_DISK_DELETED
        ),
    ]
    if plan.spec.vm.options.get("fleet"):
        who = "principals with ec2:DescribeLaunchTemplateVersions"
        places.append(Exposure("the fleet's launch template", "", who, "until the launch is over, or provision gc"))
    return places


def _on_local(_: Plan) -> list[Exposure]:
    return [Exposure("the job's folder in Freepost's state folder", "0600", _HOST, "until the job ends")]


def _on_machine(plan: Plan) -> list[Exposure]:
    ends = "until the machine ends, or is terminated after it died"
    if plan.spec.vm.options.get("keep_disk"):
        ends = "until the machine is terminated: keep_disk keeps its seed, too"
    return [Exposure("the machine's folder in Freepost's state folder", "0600", _HOST, ends)]


def _on_qemu(plan: Plan) -> list[Exposure]:
    disk = Exposure("the seed disk, labelled CIDATA", "", _root_readers(plan), _UNTIL_POWER_OFF)
    return [disk, *_on_machine(plan)]


# The platforms of which it is known where they keep user-data, by their providers' names.
_PLATFORMS: Mapping[str, Callable[[Plan], list[Exposure]]] = {
    "ec2": _at_ec2,
    "local": _on_local,
    "machine": _on_machine,
    "qemu": _on_qemu,
}
_SEED_IN_GUEST = frozenset({"machine"})  # the others' seeds are disks, or there is none


def _grant_object(plan: Plan, grant: Grant) -> Exposure:
    return _object(plan, plan.keys.grant(grant.task, grant.attempt), "whoever has its presigned GET")


def _object(plan: Plan, key: str, *others: str) -> Exposure:
    readers = ", and ".join(("principals with s3:GetObject on it", *others))
    return Exposure(show_url(plan.bucket.name, key), "", readers, "until provision rm")


def _allowed_by_puts(target: Target) -> str:
    """What the slots of a target allow. A presigned PUT bounds no size."""
    names = list(target.fields["slots"])
    shown = ", ".join(names[:_SHOWN]) + f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN)
    return f"write and overwrite, with up to 5 GiB each, {shown} under {target.prefix} at {target.url}"


def _allowed_by_policy(target: Target) -> str:
    low, high = target.size_range()
    return f"write and overwrite objects of {low} to {high} bytes under {target.prefix} at {target.url}"


def _url_ends(url: str) -> str:
    try:
        return iso(url_expiry(url))
    except ValueError:
        return "a time that its URL doesn't say"
