"""What a store's answers mean, and which of our errors each of them is.

The rows are one table for the operator's side, the agent and the upload form, whose script gets them as data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import botocore.exceptions as boto_errors

from agent.errors import ANSWERS, FINE_ANSWERS, meaning
from provisioner.boto import NO_CREDENTIALS, error_code, error_status, invalid_parameters
from provisioner.errors import (
    BadInput,
    Expiry,
    FreepostError,
    Integrity,
    NoCredentials,
    NotFound,
    Refused,
    Unreachable,
    Unsupported,
)

_Rows: TypeAlias = Sequence[tuple[str, str]]
ROWS: _Rows = (*FINE_ANSWERS, *ANSWERS)


@dataclass(frozen=True)
class Answer:
    """A store's error answer: the HTTP status, and Code and Message of its XML, which may be empty."""

    status: int
    code: str
    message: str = ""

    @property
    def meaning(self) -> str:
        """What it means: the first word of a row, ``expired`` or ``refused``."""
        return str(meaning(self.status, self.code, self.message, ROWS))

    def error(self, doing: str, *, bucket: str = "") -> FreepostError:
        """Return the error that it is, with what to do about it. `doing` is what was asked for: ``read KEY``."""
        found = self.meaning
        if found == "no bucket" and bucket:
            return NotFound(f"there is no bucket {bucket}", hint="create it, or correct the store's url")
        code = self.code or str(self.status)
        errors = _errors(doing, code, f"{code}: {self.message}" if self.message else code)
        return errors.get(found, errors["refused"])


def _errors(doing: str, code: str, said: str) -> Mapping[str, FreepostError]:
    """The error of each meaning. `doing` is what was asked for, `code` and `said` are the answer's own words."""
    access = "check what the credentials may do on this bucket"
    return {
        "expired": Expiry(
            f"could not {doing}: the policy or the credentials have expired ({said})",
            hint="check this machine's clock and the end of the session",
        ),
        "damaged": Integrity(
            f"could not {doing}: it was damaged on its way ({said})", hint="run the same command again"
        ),
        "busy": Unreachable(f"could not {doing}: the store answered {code}", hint="try again later"),
        "credentials": NoCredentials(
            f"the store doesn't accept the credentials ({code})",
            hint="check the keys, the session, the region and this machine's clock",
        ),
        "no bucket": NotFound("the store has no such bucket", hint="create it, or correct the store's url"),
        "elsewhere": Refused(
            f"could not {doing}: the store redirects to another region", hint="set store.region to the bucket's own"
        ),
        "unsupported": Unsupported(f"could not {doing}: the store answered {said}", hint=access),
        "absent": NotFound(f"could not {doing}: there is nothing there"),
        "changed": Integrity(f"could not {doing}: it was replaced meanwhile", hint="run the same command again"),
        "refused": Refused(f"could not {doing}: the store answered {said}", hint=access),
    }


def unreachable(url: str, error: Exception) -> Unreachable:
    """Return the error of a request that got no answer. The text of `error` isn't told: it can hold the signed URL."""
    return Unreachable(
        f"the store at {url.split('/')[2]} can't be reached: {type(error).__name__}",
        hint="check the endpoint URL and the network",
    )


def error_from_boto(error: Exception, doing: str, *, bucket: str) -> FreepostError:
    """Turn a botocore error into one of ours, with what to do about it and without its request or headers."""
    if isinstance(error, NO_CREDENTIALS):
        return NoCredentials(
            "there are no usable credentials to sign with",
            hint="set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if isinstance(error, boto_errors.ProfileNotFound):
        return BadInput(str(error), hint="name a profile of ~/.aws/config in store.profile or AWS_PROFILE")
    if isinstance(error, boto_errors.ParamValidationError):
        if "Invalid bucket name" in str(error):
            return bad_bucket_name(bucket)
        return BadInput(f"could not {doing}: botocore does not accept {invalid_parameters(error)}")
    if not isinstance(error, boto_errors.ClientError):
        return Unreachable(f"could not {doing}: {type(error).__name__}", hint="check the endpoint URL and the network")
    # Without its message, which may quote the request.
    return Answer(error_status(error), error_code(error)).error(doing, bucket=bucket)


def bad_bucket_name(name: str) -> BadInput:
    """Return the error of a bucket that can't be, by its name."""
    return BadInput(
        f"{name!r} can't be the name of a bucket",
        hint="3 to 63 lower-case letters, digits, dots and hyphens, starting and ending with a letter or digit",
    )
