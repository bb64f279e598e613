r"""The grant: the JSON document a VM gets, and all that the VM may do.

::

    {"version": 1, "job": "hello-7f3k", "task": "0", "attempt": 1,
     "expires": "2026-11-23T21:00:00Z",
     "outputs": TARGET, "status": TARGET,
     "inputs": [{"path": "data.csv", "url": "https://…", "size": 4, "sha256": "…", "mode": "0644"}],
     "mailbox": {"url": "https://…", "until": "2026-12-14T21:00:00Z"},
     "agent": {"url": "https://…", "size": 13586, "sha256": "…"}}

    TARGET = {"url": "https://bucket.s3.…/", "prefix": "p/hello-7f3k/out/0/1/",
              "policy": "{\"expiration\": …}", "fields": {"x-amz-signature": "…", …}}

``policy`` is the POST policy in clear, as text: these exact bytes, base64-encoded, are what was signed. For a store
that takes no forms ``fields`` holds presigned PUTs (agent/put_upload.py), and ``policy`` the sizes that the agent keeps
to. A group of VMs that share one user-data shares one grant: ``task`` lists their tasks by launch index ("0-49" or
"3,7-9"), ``{task}`` stands in each prefix where a VM's own task belongs (`for_index` fills it in), and the policies
admit the whole group. ``mailbox``, where there is one, is a presigned GET of where a renewed grant will be put, as long
as ``until`` hasn't passed (agent/renew.py). ``agent``, where there is one, is a presigned GET of the part of the agent
that had no room in the user-data (agent/boot.py). Readers ignore fields they don't know and refuse a ``version`` they
don't know. Both sides import this module; it imports nothing of theirs.
"""

import json
import os
import re
import time
from binascii import b2a_base64
from collections import namedtuple

from agent.errors import ExitCode

VERSION = 1
KEY_BUDGET = 1024  # bytes of UTF-8 in a key (AWS, "Naming Amazon S3 objects")


class GrantError(ValueError):
    """The grant can't be read; the text says why and never quotes it. `exit` is an ExitCode."""

    exit = ExitCode.NO_GRANT


class UnsupportedVersion(GrantError):
    """The grant is of a major version that this agent doesn't speak."""

    exit = ExitCode.UNSUPPORTED_GRANT


class Target(namedtuple("Target", "url prefix policy fields")):
    """One POST policy: where to send a form, and the fields that make the store accept it."""

    __slots__ = ()

    __repr__ = object.__repr__  # never the policy, never the signature

    def form(self, **more):
        """Return every field of a form but the file, as the policy has them; `more` are the object's, key at least."""
        return dict(self.fields, policy=base64(self.policy.encode()), **more)

    def covers(self, field):
        """Tell whether the policy has a condition for `field`, so that a form may carry it."""
        return any(name == field.lower() for _, name, _ in conditions(self.policy))

    def size_range(self):
        """Return the smallest and largest file, in bytes, that the policy admits."""
        ranges = [value for kind, _, value in conditions(self.policy) if kind == "content-length-range"]
        return max([low for low, _ in ranges] or [0]), min([high for _, high in ranges] + [5 << 30])


class Grant(namedtuple("Grant", "job task attempt expires outputs status inputs mailbox agent")):
    """A parsed grant. `expires` is in seconds since 1970; `outputs` and `status` are Targets.

    `mailbox` and `agent` may be None.
    """

    __slots__ = ()

    __repr__ = object.__repr__


def parse(text):
    """Read a grant from text or bytes. Raise GrantError or UnsupportedVersion."""
    try:
        raw = json.loads(text.decode() if isinstance(text, bytes) else text)
        version = raw["version"]
        if version == VERSION:
            targets = [Target(*(raw[name][part] for part in Target._fields)) for name in ("outputs", "status")]
            for target in targets:
                conditions(target.policy)
                if not (target.url.startswith(("https://", "http://")) and dict(target.fields) == target.fields):
                    raise ValueError
            inputs = [dict(item, path=str(item["path"]), url=str(item["url"])) for item in raw.get("inputs", ())]
            names = str(raw["job"]), str(raw["task"]), int(raw["attempt"])
            more = [raw.get(name) and dict(raw[name], url=str(raw[name]["url"])) for name in ("mailbox", "agent")]
            return Grant(*names, instant(raw["expires"]), *targets, inputs, *more)
    except KeyError as missing:
        raise GrantError("the grant has no field %s" % missing) from None
    except (ValueError, TypeError, AttributeError):
        # "from None": a JSON error carries the whole document with it.
        raise GrantError("this is no grant") from None
    raise UnsupportedVersion("the grant is version %.20s; this agent reads %d" % (version, VERSION))


def members(task):
    """The tasks that a grant's `task` lists: "3,7-9" is 3, 7, 8 and 9; a single task is a list of one."""
    ends = [part.split("-") for part in task.split(",")]
    return [str(number) for pair in ends for number in range(int(pair[0]), int(pair[-1]) + 1)]


def for_index(grant, index):
    """Return the grant of the VM that was launched as number `index` (from 0) of a group."""
    task = members(grant.task)[index]
    targets = [each._replace(prefix=each.prefix.replace("{task}", task)) for each in (grant.outputs, grant.status)]
    return grant._replace(task=task, outputs=targets[0], status=targets[1])


def dump(grant):
    """Write a grant as compact JSON; `parse` gives it back."""
    raw = dict(grant._asdict(), version=VERSION, expires=timestamp(grant.expires))
    for name in ("outputs", "status"):
        raw[name] = raw[name]._asdict()
    for name in ("mailbox", "agent"):
        if not raw[name]:
            del raw[name]
    return json.dumps(raw, separators=(",", ":"), sort_keys=True)


def base64(data):
    """Return base64 as text."""
    return b2a_base64(data, newline=False).decode()


def instant(text):
    """Seconds since 1970 of an ISO 8601 UTC time, as S3 writes it (2026-11-23T21:00:00Z, fraction allowed)."""
    # By mktime and the zone's offset, because calendar and strptime load what takes longer than a small upload.
    local = time.mktime(tuple(map(int, re.findall(r"\d{1,4}", text)[:6])) + (0, 0, 0))
    seconds = int(2 * local - time.mktime(time.gmtime(local)[:8] + (0,)))
    if timestamp(seconds) != re.sub(r"\.\d+Z$", "Z", text):
        raise ValueError("that is no time")
    return seconds


def timestamp(seconds):
    """The ISO 8601 UTC time of `seconds` since 1970, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def conditions(policy):
    """Return the conditions of a policy text as (kind, field, value): kind is eq, starts-with or content-length-range.

    The grammar is AWS's "Creating a POST policy" (sigv4-HTTPPOSTConstructPolicy). Raise ValueError for anything else.
    """
    found = []
    for item in json.loads(policy)["conditions"]:
        if isinstance(item, dict):
            found += [("eq", name.lower(), value) for name, value in item.items()]
            continue
        kind, name, value = item
        kind = kind.lower()
        if kind == "content-length-range":
            found.append((kind, "file", (int(name), int(value))))
        elif kind in ("eq", "starts-with") and name.startswith("$"):
            found.append((kind, name[1:].lower(), value))
        else:
            raise ValueError("unknown condition")
    return found


has_special = re.compile(r"[%\\$]").search


def encode_name(path):
    r"""Return the key form of a file name: printable text as it is; control characters, % and \ and bytes that are
    not UTF-8 percent-encoded, and the $ of ${filename}, which a store would expand. The result can't break out of a
    form field, and `decode_name` undoes it exactly."""
    text = os.fsencode(path).decode("utf-8", "surrogateescape")
    if text.isprintable() and not has_special(text):
        return text
    return "".join(
        c if c.isprintable() and c not in "%\\" else "".join("%%%02X" % b for b in c.encode("utf-8", "surrogateescape"))
        for c in text
    ).replace("${", "%24{")


def decode_name(name):
    """Return the file name, as the operating system's str, that `encode_name` was given."""
    return os.fsdecode(re.sub(b"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found.group(1), 16)]), name.encode()))
