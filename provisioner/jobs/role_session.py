"""Who signs a task's grant: the operator's own key, or a session of a role that can do no more than the grant says.

With ``signer: {role_arn}`` each grant is signed by a session of its own, whose inline policy allows PutObject below
the task's prefixes and GetObject on its inputs. Whatever happens to that session's key, it can do no more; and as a
signature ends with the session that made it, the session has to last until the job's deadline (STS, "AssumeRole").
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from provisioner.errors import BadInput, FreepostError, Refused
from provisioner.job.spec import JobSpec, SignerSpec
from provisioner.plan.grants import large_keys
from provisioner.plan.plan import UPLOAD_MARGIN, Plan, TaskPlan
from provisioner.plan.put_outputs import multipart_outputs
from provisioner.retry import DEFAULT_RETRY
from provisioner.s3.iam import POLICY_VERSION, below, one, statement
from provisioner.s3.signing import Bucket, Credentials, check_lifetime
from provisioner.s3url import StoreSpec

if TYPE_CHECKING:
    from provisioner.boto import BotoClient
    from provisioner.s3.bucket import Store

LEAST, MOST = timedelta(minutes=15), timedelta(hours=12)  # a session (STS, "AssumeRole": DurationSeconds)
POLICY_LIMIT = 2048  # characters of an inline session policy (the same page)
RENEW_BEFORE = timedelta(minutes=10)
NAME_LIMIT = 64  # characters of a RoleSessionName


@dataclass
class RefreshingCredentials:
    """Credentials that are found again, by `find`, shortly before their session ends."""

    find: Callable[[], Credentials]
    clock: Callable[[], datetime]
    _now: Credentials | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __call__(self) -> Credentials:
        """Return what signs now."""
        with self._lock:
            ends = self._now.expires if self._now else None
            if self._now is None or (ends is not None and ends - self.clock() < RENEW_BEFORE):
                self._now = self.find()
            return self._now


@dataclass(frozen=True)
class RoleSessions:
    """Gives the credentials that sign a grant. `connect` makes an STS client; sessions are kept for their task."""

    own: Credentials
    connect: Callable[[SignerSpec, Credentials], Any]
    clock: Callable[[], datetime]
    _sessions: dict[str, Credentials] = field(default_factory=dict, repr=False)

    def check(self, spec: JobSpec, now: datetime, deadline: datetime) -> datetime | None:
        """Return when what is signed now will die at the latest; None for never. Raise Expiry if before `deadline`."""
        ends = self.own.expires if spec.signer is None else now + session_length(spec)
        probe = Credentials("", "", expires=ends)
        _check_lifetime(probe, spec, now, deadline)
        return ends

    def credentials(self, plan: Plan, task: TaskPlan) -> Credentials:
        """What signs this task's grant. Raise Refused for a role that can't be assumed, Expiry for a short session."""
        role = plan.spec.signer
        if role is None:
            return self.own
        policy = session_policy(
            plan.bucket,
            write_prefixes(plan, task),
            read_resources(plan, task),
            parts=bool(multipart_outputs(plan.spec)),
        )
        name = f"{plan.job}/{task.task}/{task.attempt}/{policy}"  # the policy grows when files are offloaded
        found = self._sessions.get(name)
        if found is None or (found.expires is not None and found.expires < plan.needed_until):
            found = self._sessions[name] = self._assume(role, plan, task, policy)
        _check_lifetime(found, plan.spec, self.clock(), plan.needed_until)
        return found

    def _assume(self, spec: SignerSpec, plan: Plan, task: TaskPlan, policy: str) -> Credentials:
        label = re.sub(r"[^\w+=,.@-]", "-", f"{plan.job}-{task.task}-{task.attempt}", flags=re.ASCII)[-NAME_LIMIT:]
        asked: dict[str, Any] = {
            "RoleArn": spec.role_arn,
            "RoleSessionName": label,
            "Policy": policy,
            "DurationSeconds": int(session_length(plan.spec).total_seconds()),
        }
        if spec.external_id is not None:
            asked["ExternalId"] = spec.external_id
        return DEFAULT_RETRY(assume, self.connect(spec, self.own), asked)


def _check_lifetime(credentials: Credentials, spec: JobSpec, now: datetime, needed_until: datetime) -> None:
    check_lifetime(credentials, now=now, needed_until=needed_until, what=f"job {spec.name}", shorten="run.timeout")


def session_length(spec: JobSpec) -> timedelta:
    """How long a session of the job's role is to last: what the job says, else as long as its grants may live."""
    if spec.signer is not None and spec.signer.duration is not None:
        return timedelta(seconds=spec.signer.duration)
    wanted = timedelta(seconds=spec.expires) if spec.expires else timedelta(seconds=spec.deadline) + UPLOAD_MARGIN
    return min(max(wanted, LEAST), MOST)


def write_prefixes(plan: Plan, task: TaskPlan) -> list[str]:
    """The prefixes that the task's policies admit."""
    conditions = [item for document in plan.policies(task).values() for item in document["conditions"]]
    return [item[2] for item in conditions if isinstance(item, list) and item[:2] == ["starts-with", "$key"]]


def read_resources(plan: Plan, task: TaskPlan) -> list[str]:
    """What the VM reads, as resources: the job's own inputs in one, others key by key.

    Of what it uploads in parts it may ask whether it is there: HEAD is s3:GetObject.
    """
    bucket = plan.bucket
    apart = [one(bucket, plan.keys.grant(task.task, task.attempt))] if plan.remote_grant else []
    own = plan.keys.input("")
    keys = [item.key for item in plan.downloads if not item.key.startswith(own)]
    keys += large_keys(plan, task)
    mail = [below(bucket, plan.keys.mail(task.task, task.attempt))] if plan.spec.renew else []
    inputs = [below(bucket, own)] if any(item.key.startswith(own) for item in plan.downloads) else []
    agent = [one(bucket, plan.archive.key)] if plan.archive else []
    return [*apart, *agent, *mail, *inputs, *(one(bucket, key) for key in dict.fromkeys(keys))]


def session_policy(bucket: Bucket, writes: Sequence[str], resources: Sequence[str], *, parts: bool = False) -> str:
    """Return the inline policy: PutObject below `writes`, GetObject on `resources`. BadInput if it is too long.

    `parts`: what is written may be put together of parts, which can be listed and given up.
    """
    put = ["s3:PutObject", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"] if parts else "s3:PutObject"
    statements = [statement("Allow", put, [below(bucket, prefix) for prefix in writes])]
    if resources:
        statements.append(statement("Allow", "s3:GetObject", resources))
    text = json.dumps({"Version": POLICY_VERSION, "Statement": statements}, separators=(",", ":"))
    if len(text) > POLICY_LIMIT:
        raise BadInput(
            f"the signer's session policy would have {len(text)} characters; STS allows {POLICY_LIMIT}",
            hint="name fewer s3:// inputs, or copy them below the job as local files",
        )
    return text


def assume(client: BotoClient, asked: dict[str, Any]) -> Credentials:
    """Assume a role once. Raise Refused, NoCredentials or Unreachable."""
    from botocore.exceptions import BotoCoreError, ClientError

    from provisioner.s3.answers import error_from_boto

    try:
        found = client.assume_role(**asked)["Credentials"]
    except (BotoCoreError, ClientError) as error:
        failed: FreepostError = error_from_boto(error, f"assume the role {asked['RoleArn']}", bucket="")
        if isinstance(failed, Refused):
            failed.hint = (
                "check the role's ARN, that its trust policy names you (and external_id), and that its longest "
                f"session is at least {asked['DurationSeconds']} s"
            )
        raise failed from None
    ends = found["Expiration"]
    return Credentials(
        found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"], ends.astimezone(timezone.utc)
    )


def open_role_sessions(store: Store, location: StoreSpec, clock: Callable[[], datetime]) -> RoleSessions:
    """Return the signer for a store: STS is asked with the credentials that opened it, or that replaced these."""

    def connect(spec: SignerSpec, own: Credentials) -> BotoClient:
        from provisioner.boto import client_config, make_session

        session = make_session()
        session.set_credentials(own.access_key, own.secret_key, own.token)
        config = client_config(read_timeout=30)
        where = spec.endpoint_url or location.endpoint_url
        return session.create_client("sts", region_name=store.bucket.region, endpoint_url=where, config=config)

    return RoleSessions(store.credentials, connect, clock)
