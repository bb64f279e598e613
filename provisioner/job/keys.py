"""The keys of job.yaml: the one table that the parser checks against and that editors complete from.

To add a key: one line here, and one field of the same name in the dataclass of `provisioner.job.spec`.
The words of the schema are those of `provisioner.job.validate`.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from provisioner import units
from provisioner.job import files
from provisioner.job.fields import (
    PRINTABLE,
    choice,
    duration,
    either,
    endpoint_url,
    flag,
    items,
    mapping,
    region,
    size,
    text,
)
from provisioner.job.problems import Location, one_of
from provisioner.job.validate import Schema, publish
from provisioner.s3url import BUCKET, MAX_OBJECT_BYTES, SCHEME, is_s3_url

Options = Mapping[str, Mapping[str, Any]]  # a provider's name -> its option_schema

DAY = 86_400
WEEK = units.LONGEST_SIGNATURE  # of a policy
LONGEST = 90 * DAY  # a job whose policies are renewed
LARGEST_FILE = 5 * 1024**4  # bytes of an object made of parts (AWS, "Multipart upload limits")
TASK_LIMIT = 10_000

# Characters that every store keeps as they are.
_PREFIX = r"/(?!/)(?!.*//)(?!(?:.*/)?\.{1,2}(?:/|$))[A-Za-z0-9!_.*'()=@+,:/-]*"
_NO_NUL = r"^(?![\s\S]*\x00)"  # no `$`: text may well end in a newline
_LOCAL = "a local file, relative to job.yaml"
STORE_URL = f"^{SCHEME}{BUCKET}(?:{_PREFIX})?$"

URL = text("Bucket and prefix.", "s3://BUCKET or s3://BUCKET/PREFIX", STORE_URL, maxLength=480)
PATH = text(
    "Where it lands in the job's directory.",
    "a relative path without .., such as conf/run.json",
    files.RELATIVE,
    maxLength=1000,
    **{"x-check": files.check_path, "x-read": posixpath.normpath},
)
MODE = text("The file's mode.", 'four octal digits, such as "0644" or "0755"', "^0[0-7]{3}$")
GLOB = text(
    "Which files of the job's directory; ** crosses folders.",
    "a relative glob without .., such as out/** or *.csv (a folder is out/**)",
    files.RELATIVE,
    maxLength=1000,
    **{"x-read": posixpath.normpath},
)


def _source(allowed: str, check: Callable[[str, Location], Any]) -> dict[str, Any]:
    """Where a file comes from; where it lands is `path`."""
    return text("Where it comes from.", allowed, _NO_NUL, maxLength=4000, **{"x-check": check})


def _file_list(
    doc: str, item_doc: str, source: Mapping[str, Any], keys: Mapping[str, Schema], **more: object
) -> Schema:
    """A list of files, each the name of one beside job.yaml, or a mapping."""

    def beside(value: str, at: Location) -> None:
        if is_s3_url(value) or files.check_in_folder(value, at):
            source["x-check"](value, at)

    full = mapping(item_doc, {"source": source, "path": PATH, "mode": MODE, **keys}, **more)
    return items(doc, either({**source, "x-check": beside}, full, "source"), default=[])


STORE: dict[str, Schema] = {
    "url": URL,
    "endpoint_url": endpoint_url("The endpoint of a store other than AWS S3."),
    "region": region("The bucket's region."),
    "addressing": choice("How the bucket is named in URLs.", "auto", "path", "virtual", default="auto"),
    "profile": text("The AWS profile that signs.", "the name of a profile", PRINTABLE, maxLength=200),
    "method": choice(
        "How VMs upload: by form, by presigned PUTs, or by PUT where the store takes no forms.",
        "auto",
        "post",
        "put",
        default="auto",
    ),
}

SIGNER: dict[str, Schema] = {
    "role_arn": text(
        "The role whose sessions sign.",
        "the ARN of a role, such as arn:aws:iam::123456789012:role/freepost",
        r"^arn:[a-z-]+:(?:iam|sts):[^:\s]*:[^:\s]*:role/[!-~]+$",
        maxLength=2048,
    ),
    "external_id": text(
        "What the role's trust asks for.", "an external id", r"^[A-Za-z0-9_+=,.@:/-]{2,}$", maxLength=1224
    ),
    "duration": duration("How long a session lasts; as long as the job may if not given.", 900, 43_200),
    "endpoint_url": endpoint_url("The endpoint of an STS other than AWS's; the store's endpoint if not given."),
}

VM: dict[str, Schema] = {
    "provider": text("Where VMs run.", "the name of a provider"),
    "boot_budget": duration("How long a VM may take to boot.", 1, DAY, default="10m"),
}

RUN: dict[str, Schema] = {
    "command": {
        "anyOf": [
            text("", "", r"^(?![\s\S]*\x00)[\s\S]*\S", **{"x-read": lambda line: ("/bin/sh", "-c", line)}),
            items("", text("", "text without NUL", _NO_NUL, minLength=0), minItems=1),
        ],
        "description": "Lines for /bin/sh, or a program and its arguments.",
        "x-allowed": "lines for /bin/sh, or a list: a program and its arguments",
    },
    "script": {**_source(_LOCAL, files.check_script), "description": "A local script to run."},
    "env": {
        "type": "object",
        "description": "The job's environment. Whoever can read the VM's user-data can read it.",
        "propertyNames": text(
            "", "names of letters, digits and _, not FREEPOST_…", "^(?!FREEPOST_)[A-Za-z_][A-Za-z0-9_]*$"
        ),
        "additionalProperties": {
            "type": ["string", "number"],
            "pattern": _NO_NUL,
            "x-quiet": True,
            "x-allowed": "text or a number",
        },
        "default": {},
    },
    "files": _file_list(
        "Small files that travel in the user-data.",
        "A local file, or its content.",
        _source(_LOCAL, files.check_inline),
        {"content": {"type": "string", "description": "The file's text.", "maxLength": files.INLINE_LIMIT}},
        **{"x-one-of": ["source", "content"], "dependentRequired": {"content": ["path"]}},
    ),
    "user": {
        "type": ["string", "null"],
        "pattern": "^[a-z_][a-z0-9_-]{0,30}$",
        "description": "Who the job runs as; null is the agent's own user, root.",
        "x-allowed": "a user name such as job, or null for root",
        "default": "job",
    },
    "timeout": duration("How long the job may run; more than 7d with renew.", 1, LONGEST, default="1h"),
    "grace": duration("How long the job may take to end after SIGTERM.", 0, DAY, default="60s"),
    "agent": choice(
        "How the parts of the agent that jobs call (`agent push` and so on) reach the VM: in the user-data, from the "
        "bucket, or wherever there is room.",
        "auto",
        "inline",
        "bucket",
        default="auto",
    ),
}
OUTPUT: dict[str, Schema] = {
    "glob": GLOB,
    "bundle": flag("Pack small files into tar objects."),
    "checkpoint": flag("Also upload while the job runs."),
    "max_size": size("How large this one file may become; over 5GiB matters where VMs upload by PUT.", 1, LARGEST_FILE),
}


def _check_array(value: float | str | Sequence[float], at: Location) -> None:
    try:
        units.indexes(value, TASK_LIMIT)
    except ValueError as error:
        at.fault(str(error), _ARRAY)


_ARRAY = f"a count from 1 to {TASK_LIMIT}, ranges such as 0-3 or 0-9:2, or a list of different indexes"

JOB: dict[str, Schema] = {
    "name": text(
        "Names the job, its VMs and its prefix.",
        "1 to 40 lower-case letters, digits and hyphens, no hyphen at an end",
        "^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$",
    ),
    "store": either(URL, mapping("Where results go.", STORE, "url"), "url"),
    "vm": mapping("The machine that does it.", VM, default={}),
    "run": mapping("The work.", RUN, **{"x-one-of": ["command", "script"]}),
    "inputs": _file_list(
        "Files for the job, by way of the bucket.",
        "A local file or an object.",
        _source(f"{_LOCAL}, or s3://BUCKET/KEY", files.check_input),
        {},
        required=["source"],
    ),
    "outputs": items(
        "What to bring home.", either(GLOB, mapping("Files to bring home.", OUTPUT, "glob"), "glob"), default=[]
    ),
    "array": {
        "anyOf": [
            {"type": "integer", "minimum": 1, "maximum": TASK_LIMIT},
            text("", "", units.RANGES, maxLength=100_000),
            items("", {"type": "integer", "minimum": 0, "maximum": 10**9 - 1}, minItems=1, maxItems=TASK_LIMIT),
        ],
        "description": "Several tasks, one VM each.",
        "x-allowed": _ARRAY,
        "x-check": _check_array,
        "x-read": lambda value: units.indexes(value, TASK_LIMIT),
    },
    "expires": duration("How long the VM may upload.", 1, WEEK),
    "renew": duration(
        "How long each policy lives; `provision watch` or `extend` renews it. Without it one lasts for the whole job.",
        5,
        WEEK,
    ),
    "signer": either(SIGNER["role_arn"], mapping("Who signs what the VMs may do.", SIGNER, "role_arn"), "role_arn"),
    "revoke": choice(
        "Whether what a VM was granted is forbidden once its task is over.", "on-finish", "never", default="on-finish"
    ),
    "retries": {
        "type": "integer",
        "minimum": 0,
        "maximum": 10,
        "default": 0,
        "description": "New attempts at a task that failed or was lost.",
    },
    "max_bytes": size("The largest object that the VM may store.", 1, MAX_OBJECT_BYTES, default=MAX_OBJECT_BYTES),
    "isolation": {
        "type": "string",
        "enum": ["task", "group"],
        "description": (
            "Whether each VM has a policy of its own (task), or VMs that start together share one (group). "
            "If not given: task; on EC2, group for more than 50 tasks."
        ),
    },
    "checkpoint": duration("How often outputs marked checkpoint are uploaded while the job runs.", 10, WEEK),
}


def job(providers: Options | None, provider: object = None) -> Schema:
    """The schema of job.yaml with the options of one provider under `vm`, or of all when none is named.

    Without `providers` any option is let through.
    """
    keys = {**JOB, "vm": {**JOB["vm"], **_vm(providers, provider)}}
    return mapping("A Freepost job.", keys, "name", "run")


def _vm(providers: Options | None, provider: object) -> Schema:
    if providers is None:
        return {"additionalProperties": True}
    named = {**VM["provider"], "enum": sorted(providers), "x-allowed": one_of(sorted(providers))}
    if isinstance(provider, str) and provider in providers:
        return {"properties": {**VM, "provider": named, **providers[provider]}}
    options: dict[str, list[Schema]] = {}
    for each in providers.values():
        for key, schema in each.items():
            options.setdefault(key, []).append(schema)
    merged = {key: {"anyOf": each} for key, each in options.items()}  # their defaults wait until one is named
    return {"properties": {**VM, "provider": named, **merged}}


def json_schema(providers: Options | None) -> dict[str, Any]:
    """Return the JSON Schema of job.yaml for editors. A provider's name under `vm` chooses the options beside it."""
    whole: dict[str, Any] = publish(job(providers))
    if providers:
        choices = [
            {
                "if": {"properties": {"provider": {"const": name}}, "required": ["provider"]},
                "then": {"properties": publish(_vm(providers, name)["properties"]), "additionalProperties": False},
            }
            for name in sorted(providers)
        ]
        whole["properties"]["vm"]["allOf"] = choices
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Freepost job.yaml", **whole}


def dump(providers: Options | None) -> str:
    """Return the text of job.schema.json."""
    return json.dumps(json_schema(providers), indent=1, ensure_ascii=False) + "\n"
