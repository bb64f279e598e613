"""moto, which stands in for EC2: a server in a process of its own, with one image of Amazon's."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# moto makes 1,291 images whenever it is emptied, unless it is told which there are.
IMAGE = {
    "ami_id": "ami-0123456789abcdef0",
    "name": "an image",
    "description": "",
    "owner_id": "137112412989",
    "public": True,
    "virtualization_type": "hvm",
    "architecture": "x86_64",
    "state": "available",
    "platform": None,
    "image_type": "machine",
    "hypervisor": "xen",
    "root_device_name": "/dev/xvda",
    "root_device_type": "ebs",
}

# Prints its port, and serves until it is killed.
PROGRAM = (
    "import logging, sys\nfrom werkzeug.serving import make_server\n"
    "from moto.server import DomainDispatcherApplication, create_backend_app\n"
    "logging.getLogger('werkzeug').setLevel(logging.ERROR)\n"
    "server = make_server('127.0.0.1', 0, DomainDispatcherApplication(create_backend_app), threaded=True)\n"
    "print(server.server_port, flush=True)\nserver.serve_forever()\n"
)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[str, int]]:
    """Run a server, whose log goes below `folder`; its (host, port)."""
    (folder / "images").write_text(json.dumps([IMAGE]))
    environment = {**os.environ, "MOTO_AMIS_PATH": str(folder / "images")}
    with (folder / "log").open("wb") as errors:
        server = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=errors, env=environment
        )
    try:
        yield "127.0.0.1", int(server.stdout.readline())
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
