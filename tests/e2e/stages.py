"""What the tests of the two stages share: a store behind TLS, a job launched on EC2, a machine booted from its bytes.

The store is Ceph RGW with a certificate of the tests' own; whoever launches has temporary credentials from its STS. EC2
is moto: what it holds as user-data is what a machine boots, by real cloud-init, as it is. The machine's own part, what
a cloud gives all its VMs, is vendor data, which runs before the first line of the user-data's bootcmd: the store's
certificate, and what is wrong in that cloud (no DNS, a clock that is off).
"""

from __future__ import annotations

import base64
import ipaddress
import json
import shlex
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from cryptography import x509  # which moto brings along
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from provisioner.plan.layout import JobKeys
from provisioner.providers.base import Instance, Order, Phase, Provider
from provisioner.providers.ec2 import Ec2Provider
from provisioner.providers.guest.record import HOST
from provisioner.s3.bucket import Store, open_store
from provisioner.s3url import StoreSpec
from provisioner.userdata import seed
from tests.support import guests
from tests.support.moto import IMAGE

NAME = "store.test"  # a name of the store that no DNS knows
REGION = "eu-west-1"
LIBFAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")

# Runs at each boot, before bootcmd.
HOOK = """#cloud-boothook
#!/bin/sh
cat >>/etc/ssl/certs/ca-certificates.crt <<'END'
{certificate}
END
{more}
"""

# In the vendor data of a cloud whose DNS is dead at first: the store has an address once the agent has been up a while.
NO_DNS = f"""
systemd-run --no-block -q -p DefaultDependencies=no sh -c '
until [ -e /run/freepost-agent ]; do sleep 0.1; done
getent hosts {NAME} || echo "CLOUD: no address at $(date +%s)" >/dev/console
sleep {{seconds}}
echo "{HOST} {NAME}" >>/etc/hosts
echo "CLOUD: an address at $(date +%s)" >/dev/console'
"""
# In the vendor data of a cloud whose clock is off, for every process that is started from now on. It is set right by
# the file of that offset, as by NTP; the clock that nobody sets goes on as it was.
CLOCK = """
base64 -d >/usr/local/lib/faketime.so <<'END'
{library}
END
echo {offset} >/etc/faketimerc
echo /usr/local/lib/faketime.so >/etc/ld.so.preload
sh -c 'for each in sem.faketime_sem_ faketime_shm_; do cp /dev/shm/$each$$ /dev/shm/${{each}}all; done; true'
chmod 666 /dev/shm/*_all
systemctl set-environment {settings}
"""
FAKETIME = {
    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    "FAKETIME_CACHE_DURATION": "1",
    "FAKETIME_SHARED": "/faketime_sem_all /faketime_shm_all",  # what root's processes make is closed to the job's user
}
SET_RIGHT = """
systemd-run --no-block -q -p DefaultDependencies=no sh -c '
until [ -e /run/freepost-agent ]; do sleep 0.1; done
sleep {seconds}
echo +0 >/etc/faketimerc; sleep 2; touch /run/set-right'
"""


def make_certificate(folder: Path) -> Path:
    """Write cert.pem and key.pem of a store at this host, as hosts and guests call it, valid since yesterday."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    addresses = [x509.IPAddress(ipaddress.ip_address(each)) for each in (HOST, "127.0.0.1")]
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
    )
    usage |= dict.fromkeys(("encipher_only", "decipher_only"), False)
    now, day = datetime.now(timezone.utc), timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME), *addresses]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(secret)
    return folder


def clock(offset: str, seconds: int = 0) -> str:
    """Vendor data of a clock that is off, and set right so many seconds after the agent's start, or never."""
    library = base64.encodebytes(LIBFAKETIME.read_bytes()).decode()
    settings = shlex.join(f"{name}={value}" for name, value in FAKETIME.items())
    return CLOCK.format(library=library, offset=offset, settings=settings) + (
        SET_RIGHT.format(seconds=seconds) if seconds else ""
    )


def temporary(rgw) -> dict[str, str]:
    """Temporary credentials of RGW's STS for the operator, as the environment has them."""
    client = boto3.client(
        "sts",
        endpoint_url=rgw.endpoint_url,
        region_name=rgw.region,
        aws_access_key_id=rgw.access_key,
        aws_secret_access_key=rgw.secret_key,
    )
    found = client.assume_role(RoleArn=rgw.role, RoleSessionName="operator", DurationSeconds=3600)["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": found["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": found["SecretAccessKey"],
        "AWS_SESSION_TOKEN": found["SessionToken"],
    }


@dataclass
class Stages:
    """Launches jobs and boots them. `call` is `provision`; `bucket` is the test's own, on `rgw`."""

    rgw: Any
    moto: tuple[str, int]
    call: Any
    bucket: str
    folder: Path
    certificate: Path
    patch: pytest.MonkeyPatch
    machines: list[tuple[Provider, Instance]]

    def document(self, **more: Any) -> dict[str, Any]:
        """A job.yaml for EC2 with the store behind TLS."""
        where = {"url": f"s3://{self.bucket}/p", "endpoint_url": self.rgw.secure_url, "region": self.rgw.region}
        vm = {
            "provider": "ec2",
            "region": REGION,
            "endpoint_url": "http://{}:{}".format(*self.moto),
            "image": IMAGE["ami_id"],
            "market": "spot",
        }
        return {"name": "stages", "store": {**where, "addressing": "path"}, "vm": vm, "renew": "20m", **more}

    def launch(self, document: dict[str, Any], name: str = HOST) -> str:
        """Launch a job whose VM calls the store `name`. Return its id."""
        port = urlsplit(self.rgw.secure_url).port
        seen = f"https://{name}:{port}"
        self.patch.setattr(
            Ec2Provider, "guest_url", lambda _, url: url.replace(self.rgw.secure_url, seen), raising=False
        )
        path = self.folder / "job.yaml"
        path.write_text(json.dumps(document))
        plan = json.loads(self.told("launch", path, "--dry-run", "--json"))
        assert plan["agent"]["from"] == "bucket", "all of it fits, so that there is no second stage"
        self.archive = plan["agent"]["key"]
        events = map(json.loads, self.told("launch", path, "--json").splitlines())
        return next(event["job"] for event in events if event["event"] == "job")

    def told(self, *words: object) -> str:
        """What a command prints that must succeed."""
        done = self.call(*words)
        assert done.code == 0, done.err
        return done.out

    def user_data(self) -> bytes:
        """The bytes that EC2 has for the only VM."""
        client = boto3.client(
            "ec2",
            region_name=REGION,
            endpoint_url="http://{}:{}".format(*self.moto),
            aws_access_key_id="x",
            aws_secret_access_key="x",
        )
        (found,) = [each for page in client.describe_instances()["Reservations"] for each in page["Instances"]]
        assert found["InstanceLifecycle"] == "spot"
        held = client.describe_instance_attribute(InstanceId=found["InstanceId"], Attribute="userData")
        client.close()
        return base64.b64decode(held["UserData"]["Value"])

    @property
    def store(self) -> Store:
        """The bucket, by the key that nothing is signed with."""
        place = StoreSpec(self.bucket, "p", self.rgw.endpoint_url, self.rgw.region, "path")
        return open_store(place, access_key=self.rgw.access_key, secret_key=self.rgw.secret_key)

    def boot(self, job: str, more: str = "", image: str = "bookworm") -> Machine:
        """Boot a machine with the bytes of the job's VM, and with `more` in its vendor data."""
        guests.built(image)
        kind = guests.KINDS["machine"].make(self.folder / "machines", self.rgw.secure_url)
        data = self.user_data()
        assert len(data) <= 16_384
        hook = HOOK.format(certificate=(self.certificate / "cert.pem").read_text(), more=more).encode()
        plain = seed.seed_files
        with self.patch.context() as patch:
            patch.setattr(seed, "seed_files", lambda *a, **k: {**plain(*a, **k), "vendor-data": hook})
            ahead = datetime.now(timezone.utc) + timedelta(hours=1)
            (instance,) = kind.launch(Order(job, ("0",), 1, job, ahead, data, {"image": image}))
        self.machines.append((kind, instance))
        return Machine(self, job, kind, instance)


@dataclass
class Machine:
    """A booted machine, with what `tests.e2e.rendered` wants of one."""

    stages: Stages
    job: str
    provider: Provider
    instance: Instance

    @property
    def folder(self) -> Path:
        """Where its provider keeps it."""
        return self.stages.folder / "machines"

    @property
    def console(self) -> str:
        """What it has printed."""
        return self.provider.console(self.instance).decode("utf-8", "replace").replace("\r", "")

    def end(self, patience: float = 120) -> None:
        """Wait until it has powered itself off."""
        state = guests.wait_for(self.provider, self.instance, Phase.GONE, patience)
        assert state.reason == "powered off", self.console[-2000:]

    def posted(self, name: str) -> dict[str, Any]:
        """What the VM has stored below its status prefix: an event, or the manifest."""
        found: dict[str, Any] = json.loads(self.stages.store.get(JobKeys("p", self.job).status("0", 1) + name))
        return found

    def collected(self, code: int = 0) -> dict[str, bytes]:
        """What `provision collect` brings home, by path; `code` is its exit code."""
        folder = self.stages.folder / "collected"
        done = self.stages.call("collect", self.job, folder)
        assert done.code == code, done.err
        files = [path for path in folder.rglob("*") if path.is_file() and ".freepost" not in path.parts]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}
