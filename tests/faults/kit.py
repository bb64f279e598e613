"""What the agent's tests share: grants for a real store, a broken store, and reading back what a manifest lists."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


class Handler(BaseHTTPRequestHandler):
    """One connection to the broken store."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        """Say nothing."""

    def do_POST(self):
        """Take a form, or spoil it as the next fault says."""
        store, left = self.server, int(self.headers["Content-Length"])
        fault = store.next_fault(self)
        if fault == "refuse early":
            self.answer(403, b"<Error><Code>EntityTooLarge</Code><Message>too large</Message></Error>", close=True)
            return
        if fault == "reset":
            self.rfile.read(left // 2)
            self.hang_up(reset=True)
            return
        body = self.rfile.read(left)
        key, data, sha = take_apart(body)
        store.posts.append(key)
        if fault == "stall":
            store.ended.wait(20)
            self.hang_up()
            return
        if isinstance(fault, tuple):
            self.answer(*fault)
            return
        if sha and base64.b64encode(hashlib.sha256(data).digest()).decode() != sha:
            self.answer(400, b"<Error><Code>BadDigest</Code><Message>no match</Message></Error>")
            return
        store.objects[key] = data
        if fault == "lose the reply":
            self.hang_up()
            return
        if fault == "garbage":
            self.wfile.write(b"\x00\x01 nonsense\r\n\r\n")
            self.hang_up()
            return
        self.answer(204, etag=hashlib.md5(data).hexdigest() if fault != "wrong etag" else "0" * 32)
        if fault == "close after":
            self.hang_up()

    def do_GET(self):
        """Give a range of an object."""
        fault = self.server.next_fault(self)
        data = self.server.objects[self.path.split("?")[0].lstrip("/")]
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
        self.server.posts.append(f"{self.path} {first}-{last}")
        if isinstance(fault, tuple):
            self.answer(*fault)
        elif fault == "no ranges":
            self.answer(200, data)
        else:
            piece = data[first : last + 1]
            self.answer(206, piece[:100] if fault == "cut" else piece, length=len(piece))
            if fault == "cut":
                self.hang_up()

    def answer(self, status, body=b"", headers=(), *, etag=None, close=False, length=None):
        """Send a reply."""
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if etag:
            self.send_header("ETag", f'"{etag}"')
        if status != 204:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        if close:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def hang_up(self, *, reset=False):
        """Close without a word; with `reset`, by RST."""
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
        self.connection.close()


def take_apart(body):
    """Return (key, file, checksum field) of a form: the file is last, as S3 wants it."""
    boundary = body[: body.index(b"\r\n")]
    pieces = body.split(boundary + b"\r\n")[1:]
    head, _, rest = pieces[-1].partition(b"\r\n\r\n")
    assert b'name="file"' in head, "the file is not the last field"
    fields = {}
    for piece in pieces[:-1]:
        name, _, value = piece.partition(b"\r\n\r\n")
        fields[re.search(rb'name="([^"]*)"', name)[1].decode()] = value[:-2].decode()
    end = b"\r\n" + boundary + b"--\r\n"
    assert rest.endswith(end), "the form does not end in its boundary"
    return fields["key"], rest[: -len(end)], fields.get("x-amz-checksum-sha256")


class BrokenStore(ThreadingHTTPServer):
    """A real HTTP server on loopback. `faults` are spent one a request; `always` is what follows them.

    `posts` has the key of each form whose body was read to its end, `requests` counts all, `connections` too.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.objects, self.posts, self.faults, self.always = {}, [], deque(), None
        self.requests = self.connections = 0
        self.ended, self.lock = threading.Event(), threading.Lock()

    @property
    def url(self):
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}/"

    def next_fault(self, _):
        """Count a request and return the fault it meets."""
        with self.lock:
            self.requests += 1
            return self.faults.popleft() if self.faults else self.always

    def process_request(self, request, client_address):
        """Count a connection."""
        self.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request, client_address):
        """Let clients hang up."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def broken_store(port=0):
    """Run a BrokenStore while the block runs."""
    with BrokenStore(port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()
