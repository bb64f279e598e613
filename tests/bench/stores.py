"""The two servers: a null store, so that the client is what is measured, and the embedded store, which is real."""

from __future__ import annotations

import http.client
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from provisioner.embedded.server import EmbeddedStore, Running, connect
from provisioner.errors import MissingDependency
from provisioner.s3.signing import Bucket, Credentials, bucket_url

NULL_LUA = Path(__file__).with_name("null.lua")
MODULES = ("ndk_http_module.so", "ngx_http_lua_module.so")
NGINX = """
{modules}
daemon off; worker_processes 1; {user}pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log {folder}/access.log combined buffer=64k;
  client_max_body_size 0; client_body_buffer_size 64k; client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/body; fastcgi_temp_path {folder}/body;
  uwsgi_temp_path {folder}/body; scgi_temp_path {folder}/body;
  keepalive_requests 10000000; keepalive_timeout 75s;
  lua_socket_buffer_size 256k; lua_socket_log_errors off; lua_shared_dict tally 1m;
  server {{ listen 127.0.0.1:{port}; location / {{ content_by_lua_file {script}; }} }}
}}
"""


class Absent(Exception):
    """A store or a peer can't be run on this machine; the text says why."""


@dataclass(frozen=True)
class Tally:
    """What a store has of one upload. `parts` are of unfinished or finished multipart uploads, where known."""

    objects: int
    parts: int
    bytes: int
    broken: int = 0


class Store(Protocol):
    """A server that takes uploads and can say what arrived."""

    name: str
    endpoint: str
    bucket: Bucket
    credentials: Credentials

    def begin(self) -> None:
        """Forget what was uploaded before, the disk it took included."""

    def tally(self, prefix: str) -> Tally:
        """What arrived since `begin`, below `prefix` where the store can tell."""


class NullStore:
    """nginx with null.lua. It keeps nothing and can't tell prefixes apart."""

    name = "null"

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.bucket = Bucket("bench", "us-east-1", bucket_url(self.endpoint, "bench", custom=True))
        self.credentials = Credentials("nobody", "it-asks-nobody")

    def begin(self) -> None:
        """Set the counters to zero."""
        self.tally("")

    def tally(self, prefix: str) -> Tally:  # noqa: ARG002 - it can't tell
        """What arrived since the last call."""
        link = http.client.HTTPConnection(urlsplit(self.endpoint).netloc, timeout=10)
        link.request("GET", "/-/tally")
        found = Tally(**json.loads(link.getresponse().read()))
        link.close()
        return found


class WeedStore:
    """The embedded store. `begin` starts it anew on an empty folder, so that no upload meets another's remains."""

    name = "weed"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = EmbeddedStore(folder)
        self._running: Running | None = None

    def begin(self) -> None:
        """Start on an empty folder, and store one object, so that the first volume is there."""
        self.end()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._running = running = self._store.start(["bench"])
        self.endpoint = running.endpoint_url
        self.bucket = Bucket("bench", running.region, bucket_url(self.endpoint, "bench", custom=True))
        self.credentials = Credentials(running.access_key, running.secret_key)
        with connect(running) as client:
            client.put_object(Bucket="bench", Key="first", Body=b"first")

    def end(self) -> None:
        """Stop, and free the disk."""
        if self._running is not None:
            self._store.stop()
            self._running = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def tally(self, prefix: str) -> Tally:
        """The objects below `prefix` and their bytes."""
        with connect(self._running) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket="bench", Prefix=prefix)
            sizes = [item["Size"] for page in pages for item in page.get("Contents", ())]
        return Tally(len(sizes), 0, sum(sizes))


@contextmanager
def null_store(folder: Path) -> Iterator[NullStore]:
    """Run the null store while the block runs. Raise Absent when nginx or its Lua module isn't installed."""
    hint = "apt-get install nginx-light libnginx-mod-http-lua"
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if program is None:
        raise Absent(f"there is no nginx ({hint})")
    built = subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stderr
    found = re.search(r"--modules-path=(\S+)", built)
    modules = [Path(found[1] if found else "/usr/lib/nginx/modules") / name for name in MODULES]
    if not all(module.exists() for module in modules):
        raise Absent(f"nginx has no Lua module ({hint})")
    folder.mkdir(exist_ok=True)
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    port = listener.getsockname()[1]
    user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""  # else root's workers become nobody's
    loads = " ".join(f"load_module {module};" for module in modules)
    (folder / "nginx.conf").write_text(
        NGINX.format(modules=loads, user=user, folder=folder, port=port, script=NULL_LUA)
    )
    with (folder / "nginx.log").open("wb") as log:
        server = subprocess.Popen(
            [program, "-p", folder, "-c", folder / "nginx.conf", "-e", "stderr"],
            stdin=subprocess.DEVNULL,
            stderr=log,
            # nginx takes over a listening socket that its environment names, as it does in a binary upgrade: no port
            # is guessed, and the first request waits in the socket's queue until nginx is up.
            env={**os.environ, "NGINX": f"{listener.fileno()};"},
            pass_fds=[listener.fileno()],
        )
    listener.close()
    try:
        yield NullStore(port)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


@contextmanager
def weed_store(folder: Path) -> Iterator[WeedStore]:
    """Give the embedded store, below `folder`, while the block runs. Raise Absent when SeaweedFS isn't installed."""
    store = WeedStore(folder)
    try:
        try:
            store.begin()
        except MissingDependency as missing:
            raise Absent(f"{missing} ({missing.hint})") from None
        yield store
    finally:
        store.end()


STORES: dict[str, Callable[[Path], AbstractContextManager[Store]]] = {"null": null_store, "weed": weed_store}
