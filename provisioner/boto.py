"""What every client of botocore's is made of and fails with: sessions, settings, and what its errors say.

botocore and not boto3, which is loaded for what it adds: `Store.upload`'s transfers.
"""

from __future__ import annotations

import functools
import re
from datetime import datetime
from typing import Any, TypeAlias

import botocore.exceptions as boto_errors
import botocore.loaders
import botocore.session
from botocore.config import Config

BotoClient: TypeAlias = Any  # botocore makes its clients' classes as it goes

# There are no credentials, or whoever should give them gives none: a session of SSO or of `aws login` that ended, a
# profile that asks for an MFA code, or a program that failed.
NO_CREDENTIALS = (
    boto_errors.NoCredentialsError,
    boto_errors.PartialCredentialsError,
    boto_errors.CredentialRetrievalError,
    boto_errors.SSOError,
    boto_errors.TokenRetrievalError,
    boto_errors.RefreshWithMFAUnsupportedError,
    getattr(boto_errors, "LoginError", boto_errors.SSOError),  # botocore 1.41 and later
)

_loader = functools.cache(botocore.loaders.create_loader)


def make_session(profile: str | None = None, variables: dict[str, Any] | None = None) -> botocore.session.Session:
    """Return a session of the operator's configuration, or of a profile. Raise ProfileNotFound for one there isn't.

    Sessions share what they read: each would read megabytes of JSON for itself. `variables` redefine where botocore
    looks for a setting (`botocore.session.Session`'s ``session_vars``).
    """
    session = botocore.session.Session(variables, profile=profile)
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    return session


def client_config(**more: object) -> Config:
    """Return a client's settings: `more`, and one try a request, since `provisioner.retry` is what tries again."""
    return Config(**{"retries": {"total_max_attempts": 1}, "connect_timeout": 10, "read_timeout": 60, **more})  # type: ignore[arg-type]


def expiry(credentials: object) -> datetime | None:
    """Return when credentials of botocore's expire; None for long-lived ones."""
    return getattr(credentials, "_expiry_time", None)


def error_code(error: boto_errors.ClientError) -> str:
    """Return the code of a service's error answer; empty where it has none."""
    return str(error.response.get("Error", {}).get("Code", ""))


def error_status(error: boto_errors.ClientError) -> int:
    """Return the HTTP status of a service's error answer, 0 if it isn't known."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def invalid_parameters(error: boto_errors.ParamValidationError) -> str:
    """Name the parameters that botocore doesn't accept, without their values: one may be a secret."""
    names = sorted(set(re.findall(r"parameter:? \"?([A-Za-z][A-Za-z0-9_.\[\]]*)", str(error))))
    return ", ".join(names) or "a parameter"
