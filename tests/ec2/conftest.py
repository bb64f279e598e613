"""EC2 for the tests: moto, a server in a process of its own, behind a gateway that counts calls and injects faults."""

from __future__ import annotations

import functools
import os
import time
import urllib.request
from datetime import datetime, timezone

import boto3
import botocore.loaders
import botocore.session
import pytest

from provisioner.job import load
from provisioner.jobs.launch import Launcher
from provisioner.jobs.role_session import open_role_sessions
from provisioner.providers import registry
from provisioner.providers.ec2 import Ec2Provider
from provisioner.providers.ec2.rate import RateLimits
from provisioner.providers.retrying import RetryingProvider
from provisioner.retry import Retry
from provisioner.s3.bucket import open_store
from provisioner.s3.retrying import RetryingStore
from provisioner.s3url import StoreSpec
from tests.ec2.gateway import Gateway
from tests.support import moto as motos
from tests.support.moto import IMAGE

REGION = "eu-west-1"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "ec2SECRETec2SECRETec2SECRET"}


@pytest.fixture(scope="session", autouse=True)
def _models():
    """Let all botocore sessions of these tests read EC2's service model, which is large, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.loaders.create_loader))
        yield


@pytest.fixture(scope="session")
def moto(tmp_path_factory):
    """(host, port) of a moto server, killed at the end."""
    with motos.running(tmp_path_factory.mktemp("moto")) as where:
        yield where


@pytest.fixture
def cloud(moto, monkeypatch):
    """A gateway to an empty EC2, and credentials for it in the environment."""
    host, port = moto
    with urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")):
        pass
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**KEYS, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    with Gateway(moto) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def ec2(moto):
    """A boto3 client that speaks to moto directly, to see what there is."""
    client = boto3.session.Session().client(
        "ec2",
        region_name=REGION,
        endpoint_url=f"http://{moto[0]}:{moto[1]}",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )
    yield client
    client.close()


@pytest.fixture(scope="session")
def image():
    """The id of the one image that there is, one of Amazon's."""
    return IMAGE["ami_id"]


@pytest.fixture
def options(cloud, image):
    """What a job says under vm, as the spec reads it."""
    return {"region": REGION, "endpoint_url": cloud.url, "image": image}


@pytest.fixture
def document(cloud, bucket, store, image):
    """A job.yaml for EC2, as a document; `array` and options under `vm` are for the test to add."""
    return {
        "name": "fleet",
        "store": {"url": f"s3://{bucket}/p", "endpoint_url": store.endpoint_url, "region": store.region},
        "vm": {"provider": "ec2", "region": REGION, "endpoint_url": cloud.url, "image": image},
        "run": {"command": "echo $FREEPOST_TASK > out", "timeout": "5m"},
        "outputs": ["out"],
    }


@pytest.fixture
def parse(tmp_path):
    """Read a document as provision does."""
    return lambda document: load.parse(document, base=tmp_path, where="job.yaml", providers=registry.OptionSchemas())


class Time:
    """A clock that passes when somebody waits, and then at once."""

    now = 0.0

    def __call__(self):
        """The time."""
        return self.now

    def wait(self, seconds):
        """Let time pass; nobody told us to give up."""
        self.now += seconds
        return False


def provider(options):
    """The provider, whose own limits cost no time."""
    time = Time()
    return Ec2Provider(options, RateLimits(bounded=False, clock=time, wait=time.wait))


class Bench:
    """A launcher with what a test wants to look at."""

    def __init__(self, store, bucket, spec):
        self.events = []
        self.now = datetime.now(timezone.utc)
        opened = StoreSpec(bucket, "p", endpoint_url=store.endpoint_url, region=store.region)
        self.store = RetryingStore(open_store(opened, access_key=store.access_key, secret_key=store.secret_key))
        self.plain = provider(spec.vm.options)
        self.provider = RetryingProvider(self.plain, Retry(sleep=lambda _: None))
        signer = open_role_sessions(self.store, opened, self.clock)
        self.launcher = Launcher(self.store, self.provider, self.clock, self.events.append, signer)

    def clock(self):
        """The time."""
        return datetime.now(timezone.utc)


@pytest.fixture
def bench(store, bucket, parse):
    """Make a Bench for a document: a fresh launcher, as another process would have it."""
    return lambda document: Bench(store, bucket, parse(document))


def instances(ec2):
    """Every instance there is, in any state."""
    pages = ec2.get_paginator("describe_instances").paginate()
    return [each for page in pages for found in page["Reservations"] for each in found["Instances"]]


def tags(instance):
    """An instance's tags."""
    return {tag["Key"]: tag["Value"] for tag in instance.get("Tags", ())}


def until(met, seconds=20):
    """Wait for what another process does."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
