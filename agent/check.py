"""`agent check`: how a store that enforces the grant's policies would refuse each file, before a byte is sent.

For operators, and for people who were handed a grant: no job needs it.
"""

import json
import re
import sys
import time

from agent.console import say
from agent.errors import ExitCode
from agent.files import scan
from agent.grant import KEY_BUDGET, conditions, instant
from agent.layout import PART
from agent.options import number
from agent.push import PART_SIZE
from agent.push_command import find_grant

FORM_BUDGET = 20 * 1024  # bytes of a form without its file (AWS, "Browser-based uploads using POST": HTTPPOSTForms)
# Fields that need no condition (AWS, sigv4-HTTPPOSTConstructPolicy).
UNCONDITIONED = re.compile(r"x-amz-signature$|file$|policy$|x-ignore-")


def violations(policy, form, size, now):
    """Return how a store that enforces `policy` (text) would refuse `form` with a file of `size` bytes at `now`.

    `form` maps field names to values; names are compared without case, values with it. The bucket is the URL's,
    so a form without a `bucket` field meets any condition on it. The result is a list of sentences, none of which holds
    a signature or a token; an empty list means accepted.
    """
    fields = {name.lower(): value for name, value in form.items()}
    faults = []
    expiration = json.loads(policy)["expiration"]
    if now >= instant(expiration):
        faults.append("the policy expired at %s" % expiration)
    covered = set()
    for kind, name, wanted in conditions(policy):
        covered.add(name)
        faults += violation(kind, name, wanted, fields.get(name), size)
    for name in sorted(set(fields) - covered):
        if not UNCONDITIONED.match(name):
            faults.append("the policy has no condition for the field %s" % name)
    used = sum(len(name) + len(value.encode("utf-8", "surrogateescape")) for name, value in form.items())
    if used > FORM_BUDGET:
        faults.append("the form's fields take %d bytes; S3 allows %d" % (used, FORM_BUDGET))
    if len(form.get("key", "").encode("utf-8", "surrogateescape")) > KEY_BUDGET:
        faults.append("the key is longer than S3's %d bytes" % KEY_BUDGET)
    return faults


def violation(kind, name, wanted, value, size):
    """Return how a field's `value` (None: it is missing), or the file's size, breaks a condition: a list, as above."""
    shown = "a value it signs" if name.startswith("x-amz-") else repr(wanted)
    if kind == "content-length-range":
        if not wanted[0] <= size <= wanted[1]:
            return ["the file has %d bytes; content-length-range allows %d to %d" % ((size,) + wanted)]
    elif value is None:
        if name != "bucket":
            return ["the form has no field %s; the policy wants %s" % (name, shown)]
    elif kind == "eq" and value != wanted:
        return ["%s must equal %s" % (name, shown)]
    elif kind == "starts-with":
        # Content-Type may be a list, of which each member is compared (AWS, same page).
        values = value.split(",") if name == "content-type" else [value]
        if not all(part.strip().startswith(wanted) if len(values) > 1 else part.startswith(wanted) for part in values):
            return ["%s must start with %s" % (name, shown)]
    return []


def slot_violations(target, name, size):
    """Return how a store would refuse a file by a grant of presigned PUTs, as `violations` does for a form."""
    faults, large = [], target.fields.get("large", {}).get(name)
    expiration = json.loads(target.policy)["expiration"]
    if time.time() >= instant(expiration):
        faults.append("the PUTs expired at %s" % expiration)
    if name not in target.fields["slots"]:
        return faults + ["the grant has no slot for this name"]
    most = large["part"] * len(large["parts"]) if large else target.size_range()[1]
    if size > most:
        faults.append("the file has %d bytes; its slot takes %d" % (size, most))
    return faults


def check(options, paths):
    """Print what the policy would refuse, and why. Return the exit code; raise CommandError."""
    outputs, code, split = find_grant(options)[0].outputs, ExitCode.OK, number(options, "split-over", "1G")
    high = outputs.size_range()[1]
    items, failed = scan(paths, options.get("base", "."), options.get("as"), say)
    report = {name: [str(error)] for name, error in failed.items()}
    for name, item in items.items():
        key, size = outputs.prefix + name, item.size
        slots = outputs.fields.get("slots")
        if slots is not None:
            report[name] = slot_violations(outputs, name, size) if size >= 0 else []
            continue
        if size > min(split, high):
            key, size = PART % (key, 1), min(PART_SIZE, high)
        sums = {"x-amz-checksum-sha256": 44 * "A"} if outputs.covers("x-amz-checksum-sha256") else {}
        report[name] = violations(outputs.policy, outputs.form(key=key, **sums), size, time.time()) if size >= 0 else []
    for name, faults in report.items():
        line = "%s: %s" % (name, "; ".join(faults) or "ok")
        "json" in options or print(line.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding))
        code = ExitCode.REFUSED if faults else code
    if "json" in options:
        print(json.dumps(report))
    return ExitCode.USAGE if failed else code
