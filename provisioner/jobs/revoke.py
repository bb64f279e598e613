"""Ends a job's grants before they expire: a Deny on the job's prefix in the bucket policy, and a proof that it holds.

A signed form or URL can't be taken back. What can be done is to forbid what it does to everybody: the VM's writes below
``out/`` and ``status/``, and its reads below ``inputs/``, ``grants/`` and ``mail/``. Reading results stays allowed, and
so do presigned GETs of inputs that lie outside the job: others may need these.

`provisioner.s3.bucket_policy` makes the policy. S3 has no compare-and-swap for policies: what was written is read back,
and written again if somebody else's change swallowed it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from agent.grant import Target
from provisioner.clock import iso
from provisioner.errors import FreepostError, NoForms, Refused, Unsupported
from provisioner.jobs import status
from provisioner.jobs.record import JobRecord, keys_of
from provisioner.jobs.signers import ProofSigner
from provisioner.jobs.status import TaskStatus
from provisioner.output import Event, Report
from provisioner.retry import Retry
from provisioner.s3.bucket import Store
from provisioner.s3.bucket_policy import PolicyFull, check_size, is_denied, merge, same, statements
from provisioner.s3.probe import FormClient
from provisioner.s3.retrying_forms import RetryingFormClient
from provisioner.s3.signing import Credentials

PROOF_SECONDS = 15.0  # AWS applies a changed policy within seconds
_TRIES = 6
_SOONEST = 0.2  # seconds before a policy that was swallowed is written again; twice as many each time
_NAMED_INPUTS = 3  # inputs in one message
LIMITS_OF_REVOCATION = "this can't stop what is stored or read already, nor a transfer under way"


def revoke(
    store: Store,
    record: JobRecord,
    now: datetime,
    sleep: Callable[[float], None] = time.sleep,
    credentials: Credentials | None = None,
) -> Event:
    """Forbid what the job's VMs were granted below the job, any task and attempt, and prove it with an upload.

    Safe to repeat. Raise Unsupported for a store without bucket policies, or one that doesn't apply them to uploads.
    """
    keys = keys_of(store, record)
    until = f"until {iso(record.expires)}"
    if record.expires <= now:
        text = f"{record.job}: nothing to revoke, its grants lived {until}"
        return Event("revoked", text, {"job": record.job, "changed": False})
    denial = Denial(store, record, now, sleep)
    reads = [keys.inputs_root, keys.grants_root, keys.mail_root]
    changed = denial.impose([keys.outputs_root, keys.status_root], reads)
    denial.prove(keys.status_root, credentials or store.credentials)
    outside = [item.key for item in record.inputs if not item.key.startswith(keys.root)]
    named = ", ".join(outside[:_NAMED_INPUTS]) + ", …" * (len(outside) > _NAMED_INPUTS)
    reading = f", nor reads of inputs outside the job ({named})" if outside else ""
    text = f"{record.job}: revoked; the store refuses its grants, which lived {until}. "
    text += f"{LIMITS_OF_REVOCATION.capitalize()}{reading}, nor end the VMs (`provision terminate`). "
    text += f"It forbids retries of the job too: `provision revoke {record.job} --undo` allows them again."
    return Event("revoked", text, {"job": record.job, "changed": changed, "until": iso(record.expires)})


def undo(store: Store, record: JobRecord, now: datetime, sleep: Callable[[float], None] = time.sleep) -> Event:
    """Take the job's statements out of the bucket policy again. Safe to repeat."""
    changed = Denial(store, record, now, sleep).lift()
    text = f"{record.job}: no longer revoked" if changed else f"{record.job}: was not revoked"
    return Event("unrevoked", text, {"job": record.job, "changed": changed})


def check(store: Store, record: JobRecord) -> None:
    """Raise Refused when the whole job is revoked: nothing that a retry makes would come home.

    A store whose policy can't be read is not known to forbid anything.
    """
    try:
        text = store.policy()
    except FreepostError:
        return
    keys = keys_of(store, record)
    if is_denied(json.loads(text) if text else None, store.bucket, _sid(store, record), keys.outputs_root):
        message = f"{record.job} is revoked: the store refuses whatever its VMs upload, those of a retry too"
        raise Refused(message, hint=f"`provision revoke {record.job} --undo` allows them again")


@dataclass
class Revoker:
    """Revokes the grants of attempts that are over, each alone, where the job says so (``revoke: on-finish``).

    A failure is reported once and tried again with the next attempt; a store that doesn't support it isn't asked again.
    """

    store: Store
    report: Report
    clock: Callable[[], datetime]
    credentials: Callable[[], Credentials]
    sleep: Callable[[float], None] = time.sleep
    _pending: list[tuple[str, int]] = field(default_factory=list, repr=False)
    _reported: list[str] = field(default_factory=list, repr=False)
    _able: bool = True

    def finished(self, _: JobRecord, task: str, attempt: int) -> None:
        """Note an attempt that is over."""
        self._pending += [(task, attempt)] if attempt else []

    def tick(self, record: JobRecord, found: Sequence[TaskStatus]) -> None:
        """Revoke what was noted, in one change of the policy. `found` is where every task stands."""
        retries = record.spec.retries
        self.settle(record, last=all(item.is_final and (item.succeeded or item.attempt > retries) for item in found))

    def settle(self, record: JobRecord, *, last: bool) -> None:
        """Revoke what was noted, as `tick` does.

        `last`: nothing will be noted any more; if the policy has no room, the whole job is revoked.
        """
        if not self._pending or not self._wanted(record):
            return
        try:
            self._revoke(record)
        except PolicyFull as error:
            if last:
                self.whole(record)
            else:
                self._report_failure(record, error)
        except FreepostError as error:
            self._able = not isinstance(error, Unsupported)
            self._report_failure(record, error)

    def catch_up(self, record: JobRecord, *, ended: bool = False) -> None:
        """Revoke every attempt that is over, of a job that nobody watched; all attempts when their VMs are `ended`."""
        if not self._wanted(record):
            return
        found = status.read(self.store, record)
        for item in found:
            for attempt in range(1, item.attempt + 1) if ended or item.is_final else ():
                self.finished(record, item.task, attempt)
        self.settle(record, last=ended or all(item.is_final for item in found))

    def whole(self, record: JobRecord) -> None:
        """Revoke a job of which nothing more is expected."""
        if not self._wanted(record):
            return
        try:
            self.report(revoke(self.store, record, self.clock(), self.sleep, self.credentials()))
            self._pending.clear()
        except FreepostError as error:
            self._report_failure(record, error)

    def _wanted(self, record: JobRecord) -> bool:
        return self._able and record.spec.revoke == "on-finish" and record.expires > self.clock()

    def _revoke(self, record: JobRecord) -> None:
        keys, now = keys_of(self.store, record), self.clock()
        writes = [prefix for each in self._pending for prefix in (keys.outputs(*each), keys.status(*each))]
        denial = Denial(self.store, record, now, self.sleep)
        if denial.impose(writes, []):
            denial.prove(writes[-1], self.credentials())
            for task, _ in self._pending:
                data = {"job": record.job, "task": task}
                self.report(Event("revoked", f"task {task}: its grant is revoked", data))
        self._pending.clear()

    def _report_failure(self, record: JobRecord, error: FreepostError) -> None:
        text = f"note: grants are not revoked: {error.message}. They expire at {iso(record.expires)}"
        if text not in self._reported:
            self._reported.append(text)
            self.report(Event("notice", text, {"job": record.job, "text": text}))


@dataclass(frozen=True)
class Denial:
    """The statements about one job in the bucket's policy: what they forbid, and whether the store heeds them."""

    store: Store
    record: JobRecord
    now: datetime
    sleep: Callable[[float], None] = time.sleep

    def impose(self, writes: list[str], reads: list[str]) -> bool:
        """Forbid uploads below `writes` and downloads below `reads`. Return False when they were forbidden already."""
        # One second more, so that the Deny never ends before the grant.
        until = self.record.expires + timedelta(seconds=1)
        return self._change(statements(self.store.bucket, _sid(self.store, self.record), until, writes, reads))

    def lift(self) -> bool:
        """Forbid nothing of the job any more. Return False when nothing was forbidden."""
        return self._change(None)

    def _change(self, denied: Sequence[dict[str, Any]] | None) -> bool:
        """Merge into the store's policy and see that it stays. False when it was so already."""
        job = _sid(self.store, self.record)
        for count in range(_TRIES):
            text = self.store.policy()
            policy = json.loads(text) if text else None
            merged = merge(policy, job, denied, self.now)
            if same(policy, merged):
                return count > 0
            if count:  # somebody else changed it, or the store still shows the older one; no event tells until when
                self.sleep(_SOONEST * 2 ** (count - 1))
            self.store.set_policy(None if merged is None else check_size(merged))
        raise Refused(
            f"the policy of bucket {self.store.bucket.name} is not as it was written",
            hint="somebody else keeps changing it, or the store rewrites it; look at it and run the same command again",
        )

    def prove(self, prefix: str, credentials: Credentials) -> None:
        """Upload as the VM does until the store refuses it, and see that it does so there alone.

        Raise Unsupported if it never does, Refused if it refuses the same elsewhere in the job.
        """
        put = self.record.spec.method == "put"
        elsewhere = keys_of(self.store, self.record).proof_root
        signer = ProofSigner(self.store.bucket, credentials, self.now)
        denied, allowed = (signer.target(where, ".revoked", by_put=put, max_bytes=1) for where in (prefix, elsewhere))
        waited, pause = 0.0, 0.05
        while not self._is_refused(denied):
            if waited >= PROOF_SECONDS:
                kind = "presigned PUTs" if put else "POST"
                raise Unsupported(
                    f"the store took the Deny but still accepts uploads below {prefix}: it doesn't apply bucket "
                    f"policies to {kind}",
                    hint=f"others may be stopped, {'PUTs' if put else 'forms'} live until {iso(self.record.expires)} "
                    "or the signing key's end",
                )
            self.sleep(pause)  # no event tells when a policy applies
            waited, pause = waited + pause, pause * 2
        if self._is_refused(allowed):
            raise Refused(
                f"the Deny is in the bucket policy, but the store refuses uploads below {elsewhere}, too: that it "
                f"refuses them below {prefix} proves nothing",
                hint="run it again with credentials that may write to the whole job",
            )

    @cached_property
    def _forms(self) -> FormClient:
        return RetryingFormClient(FormClient(), Retry(sleep=self.sleep))

    def _is_refused(self, target: Target) -> bool:
        """Whether the store refuses an upload; what it takes is deleted."""
        try:
            self._forms.post(target, ".revoked", b"")
        except NoForms:  # which says nothing of what else it takes
            raise
        except Refused:
            return True
        self.store.delete([f"{target.prefix}.revoked"])
        return False


def _sid(store: Store, record: JobRecord) -> str:
    """What stands for the job in the Sids of its statements, which take no other characters."""
    return hashlib.sha256(keys_of(store, record).root.encode()).hexdigest()[:16]
