"""Turns orders into EC2's requests. Pure: the same order makes the same request, byte for byte, on any machine."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from agent.grant import members
from provisioner.clock import iso
from provisioner.plan.plan import ranges
from provisioner.providers.base import Instance, Order

JOB, TASK, TASKS, ATTEMPT, ORDER, EXPIRES = (
    f"freepost:{word}" for word in ("job", "task", "tasks", "attempt", "order", "expires")
)
_TAG_VALUE = 256  # characters (AWS, "Tag your Amazon EC2 resources")


def order_tags(order: Order) -> dict[str, str]:
    """Return the tags of every instance and volume of an order. The call that makes them sets them."""
    if len(order.tasks) == 1:
        own = task_tags(order.job, order.tasks[0])
    else:
        listed = ranges([int(task) for task in order.tasks])
        own = {"Name": order.job, TASKS: listed} if len(listed) <= _TAG_VALUE else {"Name": order.job}
    ours = {JOB: order.job, ATTEMPT: str(order.attempt), ORDER: order.token, EXPIRES: iso(order.expires)}
    return {**order.options.get("tags", {}), **own, **ours}


def task_tags(job: str, task: str) -> dict[str, str]:
    """Return the tags by which a VM of a group differs from the others."""
    return {"Name": f"{job} {task}", TASK: task}


def tag_list(given: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as EC2 writes them."""
    return [{"Key": key, "Value": value} for key, value in given.items()]


def run_instances(order: Order) -> dict[str, Any]:
    """Return the RunInstances request of an order: all of its VMs or none. `order.options` are those of a Choice."""
    options = order.options
    request = {
        **_common(order),
        "InstanceType": options["type"],
        "MinCount": len(order.tasks),
        "MaxCount": len(order.tasks),
        "UserData": order.user_data,
        "ClientToken": order.token,
    }
    if options.get("subnet"):
        request["SubnetId"] = options["subnet"]
    elif options.get("zone"):
        request["Placement"] = {"AvailabilityZone": options["zone"]}
    if options["market"] == "spot":
        spot = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": spot}
    return request


def template_name(order: Order) -> str:
    """Return the name of an order's launch template."""
    return f"freepost-{order.token}"


def create_launch_template(order: Order) -> dict[str, Any]:
    """Return the CreateLaunchTemplate request of an order that a fleet serves.

    A template takes its user-data in base64. Its name makes it unique. A token would be answered with the template of
    before, which was deleted since.
    """
    data = {**_common(order), "UserData": base64.b64encode(order.user_data).decode()}
    return {
        "LaunchTemplateName": template_name(order),
        "LaunchTemplateData": data,
        "TagSpecifications": [{"ResourceType": "launch-template", "Tags": tag_list(order_tags(order))}],
    }


def create_fleet(order: Order) -> dict[str, Any]:
    """Return the CreateFleet request of an order of one VM, by its launch template.

    EC2 chooses among the types and places. A fleet that found no room has spent its token, too. So the token is that of
    these very bytes: an order that is sent again finds its fleet, and one that is signed anew makes another.
    """
    options = order.options
    overrides = [{"InstanceType": kind, **place} for kind in options["types"] for place in options["places"]]
    market = options["market"]
    request: dict[str, Any] = {
        "Type": "instant",
        "ClientToken": hashlib.sha256(order.token.encode() + order.user_data).hexdigest(),
        "LaunchTemplateConfigs": [
            {
                "LaunchTemplateSpecification": {"LaunchTemplateName": template_name(order), "Version": "1"},
                "Overrides": overrides,
            }
        ],
        "TargetCapacitySpecification": {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": market},
        "TagSpecifications": [{"ResourceType": "fleet", "Tags": tag_list(order_tags(order))}],
    }
    if market == "spot":
        request["SpotOptions"] = {
            "AllocationStrategy": "price-capacity-optimized",
            "InstanceInterruptionBehavior": "terminate",
        }
    return request


def _common(order: Order) -> dict[str, Any]:
    """Return what RunInstances and a launch template share: no credentials, no way back, nothing left behind."""
    options = order.options
    disk = {"VolumeSize": options["disk"]} if options.get("disk") else {}
    root = {"Encrypted": True, "DeleteOnTermination": True, "VolumeType": "gp3", **disk}
    tags = tag_list(order_tags(order))
    request: dict[str, Any] = {
        "ImageId": options["image"],
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "BlockDeviceMappings": [{"DeviceName": options["root_device"], "Ebs": root}],
        "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
    }
    if options.get("security_groups"):
        request["SecurityGroupIds"] = list(options["security_groups"])
    if options.get("key"):
        request["KeyName"] = options["key"]
    if options.get("instance_profile"):
        request["IamInstanceProfile"] = {"Name": options["instance_profile"]}
    return request


def tags_of(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a resource as EC2 describes it."""
    return {tag["Key"]: tag["Value"] for tag in found.get("Tags", ())}


def instance_of(found: Mapping[str, Any], tasks: Sequence[str] = ()) -> Instance:
    """Return an instance that EC2 describes: its task by its tag, or by its launch index among the order's tasks."""
    tags = tags_of(found)
    tasks = tasks or (members(tags[TASKS]) if TASKS in tags else ())
    index = int(found.get("AmiLaunchIndex", 0))
    task = tags.get(TASK) or (tasks[index] if index < len(tasks) else "?")
    return Instance(found["InstanceId"], task, int(tags.get(ATTEMPT, "0")))
