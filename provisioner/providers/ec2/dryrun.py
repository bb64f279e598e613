"""Asks EC2 by ``DryRun`` whether it would launch, without paying for anything.

Not every cloud with EC2's API knows the parameter, and one that doesn't launches. So there are three guards:

1. nothing that costs is asked of a cloud that carries out a dry run of DescribeInstances;
2. what is asked for would end itself: its user-data powers it off, and it terminates when it is off;
3. what is launched all the same, or may have been when the answer was lost, is ended at once and reported.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

from provisioner.errors import FreepostError, NoCapacity, NotFound, Unreachable
from provisioner.providers.base import Check, Choice, Order
from provisioner.providers.ec2 import requests
from provisioner.providers.ec2.api import Api

WOULD_SUCCEED = "DryRunOperation"  # the error by which EC2 answers that it would have succeeded
LIFETIME = timedelta(minutes=10)  # after which `provision gc` removes what else it may have started
ENDS_ITSELF = b"#!/bin/sh\npoweroff\n"


def check_choices(api: Api, choices: Sequence[Choice], now: datetime) -> Iterator[Check]:
    """Yield one line a choice; a single one where this cloud can't be asked."""
    try:
        api.call("describe_instances", {"DryRun": True, "MaxResults": 5})
    except FreepostError as error:
        if WOULD_SUCCEED not in error.message:
            yield Check("dry run", good=False, text=error.message, hint=error.hint)
            return
    else:
        text = "not asked: this cloud carries out what it is to try only, so a VM would be paid for"
        yield Check("dry run", good=None, text=text, hint="launch a job of one task to find out")
        return
    for choice in choices:
        yield _check_choice(api, choice, now + LIFETIME)


def _check_choice(api: Api, choice: Choice, ends: datetime) -> Check:
    """Ask EC2 whether it would launch this. Capacity is not part of the answer."""
    token = f"doctor-{secrets.token_hex(8)}"  # of this run alone: what it started is never taken for another's
    order = Order("freepost-doctor", ("0",), 1, token, ends, ENDS_ITSELF, choice.options)
    name = f"dry run: {choice.name}"
    try:
        if choice.options.get("fleet"):
            answer = api.call("create_launch_template", {**requests.create_launch_template(order), "DryRun": True})
        else:
            answer = api.call("run_instances", {**requests.run_instances(order), "DryRun": True})
    except NoCapacity as error:
        return Check(name, good=None, text=error.message, hint=error.hint)
    except Unreachable as error:
        return _checked_after(name, error.message, error.hint, lambda: _undo(api, order, ()))
    except FreepostError as error:
        if WOULD_SUCCEED in error.message:
            return Check(name, good=True, text="EC2 would launch it (capacity and quota are seen only then)")
        return Check(name, good=False, text=error.message, hint=error.hint)
    text = "this cloud doesn't know a dry run of it"
    started = [each["InstanceId"] for each in answer.get("Instances", ())]
    return _checked_after(name, text, "launch a job of one task to find out", lambda: _undo(api, order, started))


def _checked_after(name: str, text: str, hint: str, undo: Callable[[], Sequence[str]]) -> Check:
    try:
        found = undo()
    except FreepostError as error:
        text += f"; what it may have started could not be looked for or ended: {error.message}"
        return Check(name, good=False, text=text, hint="provision gc shows and removes it in ten minutes")
    if not found:
        return Check(name, good=None, text=text, hint=hint)
    return Check(name, good=False, text=f"{text}: it started {', '.join(found)}, which was ended at once", hint=hint)


def _undo(api: Api, order: Order, started: Sequence[str]) -> Sequence[str]:
    """Remove what an order left, and name it: what it is known to have `started`, or what has its tag."""
    if order.options.get("fleet"):
        template = requests.template_name(order)
        try:
            api.call("delete_launch_template", {"LaunchTemplateName": template})
        except NotFound:
            return []
        return [template]
    wanted = [{"Name": f"tag:{requests.ORDER}", "Values": [order.token]}]
    pages = api.paginate("describe_instances", "Reservations", {"Filters": wanted})
    found = started or [each["InstanceId"] for page in pages for each in page["Instances"]]
    if found:
        api.call("terminate_instances", {"InstanceIds": list(found)})
    return found
