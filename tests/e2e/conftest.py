"""A machine whose user-data is rendered as for one that something else starts: it can be cut off and given a fault."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest

from provisioner.errors import MissingDependency
from provisioner.s3.bucket import open_store
from provisioner.s3url import StoreSpec
from tests.support import guests


@pytest.fixture
def machine(provision, store, tmp_path):
    """Boot a rendered job: a function of (job.yaml, first line of runcmd, options). Ended after the test."""
    folder = tmp_path / "machines"
    spec = StoreSpec("freepost", "", store.endpoint_url, store.region, "path")
    where = open_store(spec, access_key=store.access_key, secret_key=store.secret_key)
    booted = []

    def boot(text, first="", *, runs=True, on="machine", edit=str, **options):
        provider = guests.KINDS[on].make(folder, store.endpoint_url)
        try:
            provider._check(guests.built(options.get("image", "bookworm")))
        except MissingDependency as missing:
            pytest.skip(f"{missing.message} {missing.hint}")
        path = tmp_path / "job.yaml"
        path.write_text(text)
        done = provision("render", path, "--provider", on, "--stage", "--raw")
        assert done.code == 0, done.err
        head, tail = done.out.split("runcmd:\n")
        lines = [first] * bool(first) + ([tail.strip().removeprefix("- ")] if runs else [])
        document = head + "runcmd: " + json.dumps(lines or ["true"]) + "\n"
        job = re.search("job (.*)", done.err)[1]
        (instance,) = provider.launch(guests.order(edit(document).encode(), job, **options))
        booted.append((provider, instance))
        return SimpleNamespace(job=job, provider=provider, instance=instance, folder=folder, store=where)

    yield boot
    for provider, instance in booted:
        provider.terminate([instance])
    assert guests.left_behind(folder, [instance.id for _, instance in booted]) == []
