"""Uploads what a job's VMs will download: its inputs, and what had no room in their user-data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from provisioner.job.spec import InputSpec
from provisioner.output import Event, Report
from provisioner.packing import agent_archive
from provisioner.plan.layout import JobKeys
from provisioner.plan.plan import Plan, StagedInput
from provisioner.s3.bucket import Store
from provisioner.s3url import show_url

_BLOCK = 1 << 20  # bytes read at a time


def measure(store: Store, item: InputSpec, keys: JobKeys) -> StagedInput:
    """Find an input's size, and the SHA-256 that pins it if it is a local file."""
    if not isinstance(item.source, Path):
        key = item.source.removeprefix(f"{show_url(store.bucket.name)}/")
        return StagedInput(item.path, key, item.mode, store.size(key), None)
    digest = hashlib.sha256()
    with item.source.open("rb") as source:
        while block := source.read(_BLOCK):
            digest.update(block)
        size = source.tell()
    return StagedInput(item.path, keys.input(item.path), item.mode, size, digest.hexdigest())


@dataclass(frozen=True)
class Stager:
    """Uploads what a plan's VMs download, and reports each file."""

    store: Store
    report: Report

    def stage(self, plan: Plan) -> None:
        """Upload a job's own inputs, and what had no room in the user-data."""
        sources = {item.path: item.source for item in plan.spec.inputs}
        for item in plan.inputs:
            source = sources[item.path]
            if isinstance(source, Path):
                self.store.upload(item.key, source)
                self.report(
                    Event("staged", f"staged {item.path} ({item.size} bytes)", {"path": item.path, "size": item.size})
                )
        self.move(plan)

    def move(self, plan: Plan) -> None:
        """Put into the bucket what had no room in the user-data."""
        if plan.archive:  # written anew by each launch: whatever became of it meanwhile, it is right now, and young
            self.store.put(plan.archive.key, agent_archive.rest(), content_type="application/octet-stream")
        for file in plan.offloaded:
            self.store.put(plan.offloaded_entry(file).key, file.content, content_type="application/octet-stream")
            self.report(
                Event("offloaded", f"{file.path} is too large for user-data; the VM downloads it", {"path": file.path})
            )
