"""A throw-away Ceph Object Gateway: one monitor, one OSD in memory, one radosgw, on loopback, in a folder of its own.

The second store of the contract tests, and the stricter one: it refuses every form field that no condition covers, has
real STS sessions and applies bucket policies to forms. Needs Debian's radosgw, ceph-mon, ceph-osd and ceph-common.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import requests

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
ROLE = "arn:aws:iam:::role/signer"
SHORTEST_SESSION = 2  # seconds; AWS has 900, and so has RGW unless told otherwise
START_SECONDS = 90

CONF = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
mon initial members = a
public addr = 127.0.0.1
public network = 127.0.0.1/32
cluster network = 127.0.0.1/32
ms bind ipv4 = true
ms bind ipv6 = false
keyring = {folder}/keyring
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
run dir = {folder}
log file = {folder}/$name.log
admin socket =
# One copy of everything, in memory; nobody looks at the cluster's health.
osd objectstore = memstore
memstore device bytes = 1073741824
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 0
# Each of some ten pools waits for a proposal, a second by default.
paxos propose interval = 0.05
rgw frontends = beast endpoint=127.0.0.1:{port}{secure}
rgw thread pool size = 32
rgw s3 auth use sts = true
rgw sts key = {sts_key}
rgw sts min session duration = {shortest}
"""


@dataclass(frozen=True)
class Rgw:
    """A running gateway, with the same words as `embedded.client.Running`. `role` may be assumed by the operator's key.

    `secure_url` is where it speaks TLS, if it has a certificate.
    """

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    version: str
    role: str = ROLE
    region: str = "us-east-1"
    secure_url: str = ""


def missing() -> str:
    """Say what has to be installed; empty when all is there."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"no {', '.join(absent)}: apt-get install radosgw ceph-mon ceph-osd ceph-common" if absent else ""


def version() -> str:
    """The gateway's own word for its version, such as 16.2.15."""
    return _run("radosgw", "--version").split()[2]


@contextlib.contextmanager
def running(certificate: Path | None = None) -> Iterator[Rgw]:
    """Start a cluster and its gateway, and leave neither process, port nor folder behind.

    With a `certificate`, a folder with cert.pem and key.pem, it speaks TLS at a second port.
    """
    folder = Path(tempfile.mkdtemp(prefix="freepost-rgw-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        mon_port, port, secure_port = _free_ports(3)
        fsid, secret = str(uuid.uuid4()), uuid.uuid4().hex
        secure = f" ssl_endpoint=127.0.0.1:{secure_port}" if certificate else ""
        secure += (
            f" ssl_certificate={certificate}/cert.pem ssl_private_key={certificate}/key.pem" if certificate else ""
        )
        text = CONF.format(
            fsid=fsid,
            mon_port=mon_port,
            port=port,
            secure=secure,
            folder=folder,
            sts_key=secret[:16],
            shortest=SHORTEST_SESSION,
        )
        (folder / "ceph.conf").write_text(text)
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir()
        conf = ("-c", str(folder / "ceph.conf"))
        _cluster(stack, folder, conf, fsid, mon_port)
        gateway = _daemon(stack, folder, "radosgw", *conf, "-n", "client.admin", "-f")
        url = f"http://127.0.0.1:{port}"
        _answering(url, gateway, folder)
        admin = ("radosgw-admin", *conf, "-n", "client.admin")
        # The first characters of a key are shown by tools; there is nothing to protect here but the habit.
        access, key = "operator", secret[16:]
        _run(
            *admin,
            "user",
            "create",
            "--uid=operator",
            "--display-name=operator",
            f"--access-key={access}",
            f"--secret-key={key}",
        )
        _role(admin)
        secure_url = f"https://127.0.0.1:{secure_port}" if certificate else ""
        yield Rgw(url, access, key, version(), secure_url=secure_url)


def _cluster(stack: contextlib.ExitStack, folder: Path, conf: tuple[str, str], fsid: str, port: int) -> None:
    """Start the monitor and the OSD."""
    keyring, monmap, everything = folder / "keyring", folder / "monmap", "allow *"
    _run("ceph-authtool", "--create-keyring", str(keyring), "--gen-key", "-n", "mon.", "--cap", "mon", everything)
    for name, rights in (
        ("client.admin", {"mon": everything, "osd": everything}),
        ("osd.0", {"mon": "allow profile osd", "osd": everything}),
    ):
        caps = [word for daemon, cap in rights.items() for word in ("--cap", daemon, cap)]
        _run("ceph-authtool", str(keyring), "--gen-key", "-n", name, *caps)
    _run("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{port}]", "--fsid", fsid, str(monmap))
    _run("ceph-mon", *conf, "--mkfs", "-i", "a", "--monmap", str(monmap), "--keyring", str(keyring))
    _daemon(stack, folder, "ceph-mon", *conf, "-i", "a", "-f")
    osd = str(uuid.uuid4())
    ceph = ("ceph", *conf, "--connect-timeout", str(START_SECONDS))
    _run(*ceph, "osd", "new", osd)
    _run("ceph-osd", *conf, "-i", "0", "--mkfs", "--osd-uuid", osd)
    _daemon(stack, folder, "ceph-osd", *conf, "-i", "0", "-f")
    _run(*ceph, "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=here")


def _role(admin: tuple[str, ...]) -> None:
    """Make the role: the operator may assume it, and it may do everything that a session's policy leaves."""
    trust = {"Effect": "Allow", "Principal": {"AWS": ["arn:aws:iam:::user/operator"]}, "Action": ["sts:AssumeRole"]}
    allow = {"Effect": "Allow", "Action": ["s3:*"], "Resource": "arn:aws:s3:::*"}
    _run(*admin, "role", "create", "--role-name=signer", "--path=/", f"--assume-role-policy-doc={_policy(trust)}")
    _run(*admin, "role-policy", "put", "--role-name=signer", "--policy-name=all", f"--policy-doc={_policy(allow)}")


def _policy(statement: dict[str, object]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    assert done.returncode == 0, f"{words[0]} {words[-2:]}: {done.stderr[-2000:]}"
    return done.stdout


def _daemon(stack: contextlib.ExitStack, folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start a daemon in the foreground; it is killed when the stack unwinds, for what it holds is thrown away."""
    with (folder / f"{words[0]}.out").open("wb") as out:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def end() -> None:
        process.kill()
        process.wait()

    stack.callback(end)
    return process


def _answering(url: str, gateway: subprocess.Popen[bytes], folder: Path) -> None:
    until = time.monotonic() + START_SECONDS
    with requests.Session() as http:
        http.trust_env = False
        while True:
            try:
                http.get(url, timeout=5)
            except requests.ConnectionError:
                assert gateway.poll() is None, (folder / "radosgw.out").read_text()[-2000:]
                assert time.monotonic() < until, f"radosgw did not answer within {START_SECONDS} s"
                time.sleep(0.1)  # it makes its pools first, and says to nobody when it is done
            else:
                return


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in held]
