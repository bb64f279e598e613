"""What is secret in a task's user-data: who can read it, where, and until when.

Pure: it reads the plan, the grant and the rendered document, and holds no secret's value itself. The places in
the guest are those where cloud-init keeps user-data (tests/e2e/test_audit.py searches a booted machine for others).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agent.grant import Grant, Target
from provisioner.clock import iso
from provisioner.errors import BadInput
from provisioner.plan.plan import Plan
from provisioner.s3.signing import url_expiry
from provisioner.s3url import show_url
from provisioner.userdata.render import WORKDIR, UserData

_SHOWN = 12  # names of slots in one line
GONE = "until the VM's disk is deleted"
EVERYONE = "every uid in the guest"
OFF = "until the VM powers off"
CLOUD = "/var/lib/cloud/instance"


@dataclass(frozen=True)
class Place:
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
    places: tuple[Place, ...]


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
    return [*found, *_job_secrets(plan, user_data, platform, common)]


def _job_secrets(plan: Plan, user_data: UserData, platform: str, common: tuple[Place, ...]) -> list[Secret]:
    """What the operator wrote into the job: the command, the environment, the files."""
    run, task = plan.spec.run, _file(user_data, "task", plan)
    allows, works = "whatever you put into it", "for as long as it does elsewhere: Freepost sets it no end"
    job, everyone = f"uid of {_job_user(plan)}, root", "every user of this machine" if platform == "local" else EVERYONE
    recorded = _object(plan, plan.keys.record)
    shown = [Place("the process list (ps), while the job runs", "", everyone, "until the job ends")]
    if platform != "local":  # systemd describes the job's scope by its command
        shown.append(Place("the guest's journal, which names the job's scope", "", "root, groups adm and others", GONE))
    found = [Secret("run.command", allows, works, (task, *shown, recorded, *common))]
    if run.env:
        environment = Place("the environment of the job's processes", "", job, "until the job ends")
        names = ", ".join(f"run.env.{name}" for name in run.env)
        found.append(Secret(names, allows, works, (task, environment, recorded, *common)))
    for item in run.files:
        there = job if not int(item.mode, 8) & 0o004 else everyone
        home = f"{WORKDIR}/{item.path}" if platform != "local" else f"the job's own folder: {item.path}"
        lies = Place(home, item.mode, there, GONE if platform != "local" else "until the job ends")
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
    where: dict[Place, list[str]] = {}
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
    return plan.spec.run.user or "root"


def _root_readers(plan: Plan) -> str:
    return "uid 0 in the guest" + (", and so the job, which runs as root" if _job_user(plan) == "root" else "")


def _file(user_data: UserData, section: str, plan: Plan) -> Place:
    for file in user_data.files:
        if file.section == section:
            return Place(file.path, file.mode, _root_readers(plan), GONE)
    raise BadInput(f"the user-data has no {section}")


def copies_in_guest(plan: Plan, platform: str) -> list[Place]:
    """Where in the guest cloud-init keeps user-data, whole or taken apart; the local provider has no guest."""
    if platform == "local":
        return []
    files = {
        f"{CLOUD}/user-data.txt": "0600",
        f"{CLOUD}/user-data.txt.i": "0600",
        f"{CLOUD}/cloud-config.txt": "0600",
        f"{CLOUD}/obj.pkl": "0400",
    }
    places = [Place(path, mode, _root_readers(plan), GONE) for path, mode in files.items()]
    if platform == "machine":
        places.append(Place("/var/lib/cloud/seed/nocloud/user-data", "0600", _root_readers(plan), OFF))
    return [*places, Place("/run/cloud-init/*.json", "0600", _root_readers(plan), OFF)]


def _outside(plan: Plan, platform: str) -> list[Place]:
    """Where the platform keeps user-data, and hands it out."""
    if platform == "ec2":
        everyone = f"{EVERYONE} that reaches IMDS over IPv4 or IPv6"
        # The agent has the kernel prohibit these routes to the job's user (agent/task.py); root can't be kept away.
        denied = plan.spec.run.user not in (None, "root")
        readers = f"{everyone}, but not {_job_user(plan)}" if denied else f"{everyone}, {_job_user(plan)} too"
        places = [
            Place("IMDS, 169.254.169.254 and fd00:ec2::254, user-data", "", readers, OFF),
            Place(
                "EC2's API", "", "principals with ec2:DescribeInstanceAttribute", "until EC2 forgets the terminated VM"
            ),
            Place("the VM's volume", "", "principals with ec2:CreateSnapshot or ec2:CreateImage on it", GONE),
        ]
        if plan.spec.vm.options.get("fleet"):
            who = "principals with ec2:DescribeLaunchTemplateVersions"
            places.append(Place("the fleet's launch template", "", who, "until the launch is over, or provision gc"))
        return places
    host, ends = "you and root on this machine", "until the machine ends, or is terminated after it died"
    if plan.spec.vm.options.get("keep_disk"):
        ends = "until the machine is terminated: keep_disk keeps its seed, too"
    if platform == "local":
        return [Place("the job's folder in Freepost's state folder", "0600", host, "until the job ends")]
    if platform in {"machine", "qemu"}:
        home = Place("the machine's folder in Freepost's state folder", "0600", host, ends)
        disk = Place("the seed disk, labelled CIDATA", "", _root_readers(plan), OFF)
        return [home] if platform == "machine" else [disk, home]
    return [Place("what `render` wrote", "0600", "you, and the platform that you give it to", "until you delete it")]


def _grant_object(plan: Plan, grant: Grant) -> Place:
    return _object(plan, plan.keys.grant(grant.task, grant.attempt), "whoever has its presigned GET")


def _object(plan: Plan, key: str, *others: str) -> Place:
    readers = ", and ".join(("principals with s3:GetObject on it", *others))
    return Place(show_url(plan.bucket.name, key), "", readers, "until provision rm")


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
