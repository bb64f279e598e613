"""What is tried again is done once in the end: connections that are reset half-way, before a real store."""

import collections.abc
import inspect
import random
import re
import typing
from datetime import datetime, timedelta, timezone

import pytest

from provisioner.errors import Integrity
from provisioner.job.spec import JobSpec, OutputSpec, RunSpec
from provisioner.jobs import removal
from provisioner.jobs.record import JobRecord
from provisioner.providers import base, registry
from provisioner.providers.retrying import RetryingProvider
from provisioner.retry import Download, Retry
from provisioner.s3.bucket import Store, open_store
from provisioner.s3.probe import FormClient
from provisioner.s3.retrying import RetryingStore
from provisioner.s3.retrying_forms import RetryingFormClient
from provisioner.s3.signing import RequestSigner
from provisioner.s3url import StoreSpec
from tests.support.resets import resetting

NOW = datetime(2026, 11, 23, 20, 0, 0, tzinfo=timezone.utc)
MIB = 1 << 20


@pytest.fixture
def through(store, bucket):
    """Open the test's bucket through a proxy, with the retries that every command has."""

    def connect(proxy, sleep=lambda _: None):
        spec = StoreSpec(bucket, "p", proxy.url, store.region, "path")
        plain = open_store(spec, access_key=store.access_key, secret_key=store.secret_key)
        return RetryingStore(plain, Retry(sleep=sleep))

    return connect


@pytest.mark.parametrize("size", [300_000, 20 * MIB], ids=["small", "in parts"])
def test_an_upload_whose_connection_is_reset_is_made_again(through, store, opened, tmp_path, size):
    """A file of which a part was sent when the connection broke is stored whole by the next try."""
    data = random.Random(size).randbytes(size)
    (tmp_path / "file").write_bytes(data)
    with resetting(store.endpoint_url, up=size // 10) as proxy:
        through(proxy).upload("p/file", tmp_path / "file")
        assert proxy.resets == 1
    assert opened.get("p/file") == data


def test_a_download_whose_connection_is_reset_goes_on_where_it_was(through, store, opened):
    """What takes an object's bytes gets each of them once, and the store is asked for the rest alone."""
    data = random.Random(1).randbytes(5 * MIB)
    opened.put("p/object", data)
    got = []
    with resetting(store.endpoint_url, down=3 * MIB) as proxy:
        through(proxy).fetch("p/object", Download(got.append))
        assert proxy.resets == 1
        assert re.search(rb"Range: bytes=[1-9]\d+-\r\n", proxy.sent)
    assert b"".join(got) == data


def test_the_rest_of_another_object_is_no_rest(through, store, opened):
    """An object that was replaced while half of it was here is refused, not put together of two."""
    opened.put("p/object", bytes(5 * MIB))
    with resetting(store.endpoint_url, down=3 * MIB) as proxy:
        replacing = through(proxy, sleep=lambda _: opened.put("p/object", b"x" * 5 * MIB))
        with pytest.raises(Integrity, match="replaced"):
            replacing.fetch("p/object", Download(lambda _: None))


def test_a_form_whose_connection_is_reset_is_posted_again(store, opened):
    """The event that proves a policy is stored, though the first connection broke while it was sent."""
    data = b"{}" + b" " * 200_000
    with resetting(store.endpoint_url, up=100_000) as proxy:
        bucket = opened.bucket.__class__(opened.bucket.name, store.region, f"{proxy.url}/{opened.bucket.name}/")
        now = datetime.now(timezone.utc)
        target = RequestSigner(bucket, opened.credentials, now).sign_prefix(
            "p/", expires=now + timedelta(hours=1), max_bytes=MIB
        )
        RetryingFormClient(FormClient(), Retry(sleep=lambda _: None)).post(target, "launched", data)
        assert proxy.resets == 1
    assert opened.get("p/launched") == data


def test_an_upload_in_parts_begun_twice_goes_with_its_job(through, store, opened):
    """The answer to a first begin may be lost: what it began is given up with the job, like the second's."""
    with resetting(store.endpoint_url, down=1) as proxy:
        upload = through(proxy).begin_upload("p/j/out/0/1/big.bin")
        assert proxy.resets == 1
    begun = opened.uploads("p/")
    assert len(begun) == 2
    assert ("p/j/out/0/1/big.bin", upload) in begun
    spec = JobSpec(
        "j",
        RunSpec(("true",)),
        store=StoreSpec(opened.bucket.name, method="put"),
        outputs=(OutputSpec("big.bin", max_size=6 << 30),),
    )
    removal.remove(opened, JobRecord("j", spec, "local", NOW, NOW, NOW))
    assert opened.uploads("p/") == []


def _said(hint):
    """Every type that a hint names, those inside others too."""
    yield typing.get_origin(hint) or hint
    for inner in typing.get_args(hint):
        yield from _said(inner)


WRAPPED = [Store, FormClient, base.Provider, *(registry.provider_class(name) for name in registry.BUILT_IN)]
ONCE = (collections.abc.Iterator, collections.abc.Callable, typing.IO)  # what can be read, or filled, only once


@pytest.mark.parametrize("wrapped", WRAPPED, ids=lambda each: each.__name__)
def test_what_is_tried_again_takes_and_gives_nothing_that_works_once(wrapped):
    """No method of what is wrapped takes or returns an open file, an iterator or a function."""
    for name, method in inspect.getmembers(wrapped, inspect.isfunction):
        if not name.startswith("_"):
            for where, hint in typing.get_type_hints(method).items():
                wrong = [each for each in _said(hint) if isinstance(each, type) and issubclass(each, ONCE)]
                assert not wrong, f"{wrapped.__name__}.{name}: {where}"


WRAPPERS = [(Store, RetryingStore), (FormClient, RetryingFormClient), (base.Provider, RetryingProvider)]
OF_THE_CLASS = {"create", "reaches_loopback"}  # what a provider's class is asked before there is one to wrap


@pytest.mark.parametrize(("wrapped", "wrapper"), WRAPPERS, ids=lambda each: each.__name__)
def test_nothing_is_left_out_of_what_is_tried_again(wrapped, wrapper):
    """A wrapper has each public method and property of what it wraps, with the same signature."""
    for name, member in inspect.getmembers(wrapped):
        if not name.startswith("_") and name not in OF_THE_CLASS:
            own = vars(wrapper).get(name)
            assert own is not None, name
            assert isinstance(own, property) == isinstance(member, property), name
            if inspect.isfunction(member):
                assert inspect.signature(own) == inspect.signature(member), name
