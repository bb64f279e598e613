"""Finds out, before anything is paid for, whether a job could be launched: a line each, with what to do about it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from provisioner.clock import iso
from provisioner.errors import FreepostError, NotFound, Refused
from provisioner.job.spec import JobSpec
from provisioner.jobs.signers import ProofSigner
from provisioner.plan.layout import doctor_root
from provisioner.providers.base import Check, Provider
from provisioner.s3.bucket import Store
from provisioner.s3.probe import FormClient
from provisioner.s3.retrying_forms import RetryingFormClient

_MARKS: Mapping[bool | None, str] = {True: "ok", False: "NO", None: "?"}


def of_store(store: Store, spec: JobSpec, now: datetime) -> Iterator[Check]:
    """Credentials and how long they live, the bucket's region, and a write through a policy."""
    yield _lifetime(store, spec, now)
    yield _bucket(store)
    prefix = doctor_root(store.prefix)
    name = secrets.token_hex(8)
    signer = ProofSigner(store.bucket, store.credentials, now)
    target = signer.target(prefix, name, by_put=False, max_bytes=16)
    try:
        RetryingFormClient(FormClient()).post(target, name, b"doctor\n")
    except FreepostError as error:
        yield Check("write through a policy", good=False, text=error.message, hint=error.hint)
        return
    yield Check("write through a policy", good=True, text=f"a form posted below {prefix} was taken")
    yield _read_back(store, prefix + name)


def _lifetime(store: Store, spec: JobSpec, now: datetime) -> Check:
    ends = store.credentials.expires
    if ends is None:
        return Check("signing credentials", good=True, text="long-lived: they end when somebody ends them")
    needed = now + timedelta(seconds=spec.signed)
    text = f"they end at {iso(ends)}; a job launched now needs them until {iso(needed)}"
    hint = "" if ends >= needed else "sign in again for a longer session, or shorten run.timeout"
    return Check("signing credentials", good=ends >= needed, text=text, hint=hint)


def _bucket(store: Store) -> Check:
    """Whether the bucket is there, and in the region that is signed for."""
    own = store.bucket.region
    text = f"{store.bucket.name} in {own}, at {store.bucket.url}"
    try:
        found = store.region()
    except NotFound:
        return Check("bucket", good=False, text=f"there is no {text}", hint="create it, or correct the store's url")
    except Refused as error:
        return Check("bucket", good=None, text=f"{text}: {error.message}", hint=error.hint)
    except FreepostError as error:
        return Check("bucket", good=False, text=error.message, hint=error.hint)
    if found not in ("", own):
        return Check("bucket", good=False, text=f"{text}: it is in {found}", hint=f"set store.region to {found}")
    return Check("bucket", good=True, text=text + ", as it says" * bool(found))


def _read_back(store: Store, key: str) -> Check:
    try:
        store.get(key)
        store.list(key)
        store.delete([key])
    except FreepostError as error:
        with contextlib.suppress(FreepostError):
            store.delete([key])
        return Check("read, list and delete", good=False, text=error.message, hint=error.hint)
    return Check("read, list and delete", good=True, text="status, collect and rm will work")


def of_provider(provider: Provider, spec: JobSpec) -> Sequence[Check]:
    """What the provider says of itself."""
    return provider.checks(spec.vm.options, len(spec.tasks))


def stopped(error: FreepostError) -> Check:
    """What kept the other checks from being made."""
    return Check("the rest", good=False, text=f"could not be checked: {error.message}", hint=error.hint)


def table(found: Sequence[Check]) -> str:
    """The findings as lines of text."""
    lines = []
    for each in found:
        lines.append(f"{_MARKS[each.good]:3} {each.name}: {each.text}")
        if each.hint and not each.good:
            lines.append(f"      → {each.hint}")
    return "\n".join(lines)
