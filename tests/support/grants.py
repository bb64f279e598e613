"""Grants for a real store and for a broken one, the agent as a command, and reading back what a manifest lists."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import boto3
from botocore.config import Config

from agent.grant import Grant, Target, decode_name, dump

ROOT = Path(__file__).resolve().parents[2]
SECRETS = ("5ecre7519na7ure" * 4, "5ecre7t0ken" * 6)  # a signature and a session token


def real_grant(client, bucket, *, job="job", sums=True, low=0, high=5 << 30, expires=3600, inputs=()):
    """Sign a grant for a real store with boto3's own generate_presigned_post, by SigV4."""
    keys = client._request_signer._credentials
    client = boto3.client(
        "s3",
        endpoint_url=client.meta.endpoint_url,
        region_name=client.meta.region_name,
        aws_access_key_id=keys.access_key,
        aws_secret_access_key=keys.secret_key,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    targets = []
    for kind, least, most in (("out", low, high), ("status", 0, 1 << 20)):
        prefix = f"{job}/{kind}/0/1/"
        conditions = [["starts-with", "$key", prefix], ["content-length-range", least, most]]
        if sums:
            conditions.append(["starts-with", "$x-amz-checksum-sha256", ""])
        post = client.generate_presigned_post(
            bucket, prefix + "${filename}", Conditions=conditions, ExpiresIn=max(1, expires)
        )
        fields = post["fields"]
        del fields["key"]
        policy = base64.b64decode(fields.pop("policy")).decode()
        targets.append(Target(post["url"], prefix, policy, fields))
    return Grant(job, "0", 1, int(time.time() + expires), *targets, list(inputs), None, None)


def fake_grant(url, *, sums=True, high=5 << 30, expires=3600, inputs=()):
    """Make a grant for the broken store, which checks no signature."""
    targets = []
    for kind, most in (("out", high), ("status", 1 << 20)):
        prefix = f"job/{kind}/0/1/"
        conditions = [["starts-with", "$key", prefix], ["content-length-range", 0, most]]
        conditions += [{"x-amz-signature": SECRETS[0]}, {"x-amz-security-token": SECRETS[1]}]
        if sums:
            conditions.append(["starts-with", "$x-amz-checksum-sha256", ""])
        policy = json.dumps({"expiration": "2099-01-01T00:00:00Z", "conditions": conditions})
        fields = {"x-amz-signature": SECRETS[0], "x-amz-security-token": SECRETS[1]}
        targets.append(Target(url, prefix, policy, fields))
    return Grant("job", "0", 1, int(time.time() + expires), *targets, list(inputs), None, None)


def write_grant(folder, grant):
    """Write a grant file into `folder` and return its path."""
    path = Path(folder, "grant.json")
    path.write_text(dump(grant))
    return path


def run_agent(*argv, python=sys.executable, check=None, **more):
    """Run `python -m agent` to its end, from this checkout."""
    env = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONWARNINGS="default")
    done = subprocess.run(
        [python, "-m", "agent", *map(os.fspath, argv)], capture_output=True, env=env, check=False, timeout=100, **more
    )
    if check is not None:
        assert done.returncode == check, done.stderr.decode("utf-8", "replace")
    return done


def gather(read, grant):
    """Return ({file name in bytes: content}, manifest) of what the manifest lists; `read(key)` gives an object's bytes.

    Every object is compared with its size and sha256.
    """
    manifest = json.loads(read(grant.status.prefix + "manifest.json"))
    entries = []
    for piece in manifest["more"]:
        entries += json.loads(checked(read(grant.status.prefix + piece["name"]), piece))
    entries += manifest["entries"]
    out = grant.outputs.prefix
    bundles = {item["path"]: checked(read(out + item["path"]), item) for item in manifest["bundles"]}
    tree = {}
    for entry in entries:
        path = entry["path"]
        if entry.get("type") == "dir":
            tree[os.fsencode(decode_name(path))] = None
            continue
        if "bundle" in entry:
            data = bundles[entry["bundle"]][entry["offset"] :][: entry["size"]]
        elif "parts" in entry:
            pieces = enumerate(entry["parts"], 1)
            data = b"".join(checked(read(f"{out}{path}.parts/{number:05d}"), part) for number, part in pieces)
        else:
            data = read(out + path)
        tree[os.fsencode(decode_name(path))] = checked(data, entry)
    assert manifest["files"] == sum(data is not None for data in tree.values())
    assert manifest["bytes"] == sum(len(data) for data in tree.values() if data is not None)
    return tree, manifest


def checked(data, entry):
    """Return data that is as its entry says."""
    assert len(data) == entry["size"]
    if "sha256" in entry:
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    return data


def reader(client, bucket):
    """Return the `read` of `gather` for a real store."""
    return lambda key: client.get_object(Bucket=bucket, Key=key)["Body"].read()


def tree_of(folder):
    """Return {name in bytes: content} of a folder; an empty directory has a slash and None."""
    found = {}
    for path, folders, names in os.walk(os.fsencode(folder)):
        for name in names:
            with open(os.path.join(path, name), "rb") as file:
                found[os.path.relpath(file.name, os.fsencode(folder))] = file.read()
        if not folders and not names:
            found[os.path.relpath(path, os.fsencode(folder)) + b"/"] = None
    return found
