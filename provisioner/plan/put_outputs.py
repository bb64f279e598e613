"""Which objects a task of a job may store where the store takes no forms. Pure; `s3.put_slots` signs them."""

from __future__ import annotations

from agent.grant import encode_name
from agent.layout import EVENTS, LOG_SEGMENT, MANIFEST
from provisioner.errors import BadInput
from provisioner.job.spec import JobSpec, OutputSpec
from provisioner.s3.put_slots import MIN_PART_BYTES

LOG_SLOTS = 16  # of 1 MiB each, and the last keeps the log's end: some 40 bytes of user-data a slot
STATUS_NAMES = (*EVENTS, MANIFEST, *(LOG_SEGMENT % number for number in range(1, LOG_SLOTS + 1)))
UNKNOWN = "0" * 64  # stands in for an UploadId where nothing is begun
_PATTERN = frozenset("*?[")


def is_large(item: OutputSpec) -> bool:
    """Whether an output may take several parts."""
    return item.max_size is not None and item.max_size > MIN_PART_BYTES


def output_names(spec: JobSpec) -> list[str]:
    """The outputs' names below their prefix."""
    return [encode_name(item.glob) for item in spec.outputs]


def multipart_outputs(spec: JobSpec) -> dict[str, int]:
    """The names of the outputs that may take several parts, and how many bytes each may have."""
    return {encode_name(item.glob): item.max_size or 0 for item in spec.outputs if is_large(item)}


def check_presignable(spec: JobSpec) -> None:
    """Raise BadInput for what can't be presigned, each with what to do instead."""
    faults = []
    for item in spec.outputs:
        if _PATTERN & set(item.glob):
            faults.append(
                f"{item.glob}: a pattern; write each file's exact name, or let the job pack them: tar -czf out.tar.gz …"
            )
        elif item.bundle:
            faults.append(f"{item.glob}: bundle; the name of a bundle isn't known before. Leave it out")
        elif item.checkpoint and is_large(item):
            faults.append(f"{item.glob}: checkpoint with a max_size over 64MiB; parts are put together once only")
    if faults:
        raise BadInput(
            "VMs upload by presigned PUT here, which is for one object of a name known now; these outputs are not",
            hint="change them, or use a store that takes POST",
            faults=faults,
        )
    if spec.isolation == "group":
        raise BadInput(
            "VMs of a group share one grant, and a presigned PUT is for one task's object", hint="use isolation: task"
        )
