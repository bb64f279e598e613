"""botocore's sessions, which share what they read: each would read megabytes of JSON for itself.

botocore and not boto3, which is loaded for what it adds: `Store.upload`'s transfers.
"""

from __future__ import annotations

import functools
from typing import Any, TypeAlias

import botocore.loaders
import botocore.session

BotoClient: TypeAlias = Any  # botocore makes its clients' classes as it goes

_loader = functools.cache(botocore.loaders.create_loader)


def make_session(profile: str | None = None, variables: dict[str, Any] | None = None) -> botocore.session.Session:
    """Return a session of the operator's configuration, or of a profile. Raise ProfileNotFound for one there isn't.

    `variables` redefine where botocore looks for a setting (`botocore.session.Session`'s ``session_vars``).
    """
    session = botocore.session.Session(variables, profile=profile)
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    return session
