"""What goes in and out of the service, as OpenAPI shows it.

A misspelt limit is no limit: unknown fields are refused.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from agent.grant import KEY_BUDGET
from provisioner.s3.signing import MAX_LIFETIME
from provisioner.s3url import MAX_OBJECT_BYTES

MAX_KEYS = 500  # of one request: as many presigned URLs as make an answer of some 250 kB
LONGEST = int(MAX_LIFETIME.total_seconds())

Seconds = Annotated[
    StrictInt | None, Field(ge=1, le=LONGEST, description="How long it is to live; what it got: expires.")
]
Key = Annotated[StrictStr, Field(min_length=1, max_length=KEY_BUDGET)]  # characters; `safe_keys` counts the bytes
Size = Annotated[StrictInt, Field(ge=0, le=MAX_OBJECT_BYTES)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GetRequest(_Body):
    """Presigned GETs."""

    keys: Annotated[list[Key], Field(min_length=1, max_length=MAX_KEYS)]
    seconds: Seconds = None
    filename: Annotated[StrictStr | None, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f/\\]+$")] = None


class PutRequest(_Body):
    """A presigned PUT of exactly `size` bytes."""

    key: Key
    size: Size
    seconds: Seconds = None
    content_type: Annotated[StrictStr | None, Field(pattern=r"^[A-Za-z0-9!#$&^_.+/; =\"-]{1,200}$")] = None
    no_overwrite: StrictBool = False


class PostRequest(_Body):
    """A POST policy for a key, or for everything below a prefix."""

    key: Key | None = None
    prefix: Key | None = None
    max_bytes: Size | None = None
    seconds: Seconds = None


class GrantRequest(_Body):
    """A grant, as agent/grant.py describes it. Ask again for a renewed one."""

    prefix: Key | None = None
    max_bytes: Size | None = None
    seconds: Seconds = None


class UrlOfKey(BaseModel):
    """One key and its URL."""

    key: str
    url: str


class Urls(BaseModel):
    """Presigned GETs, in the order of the keys."""

    urls: list[UrlOfKey]
    expires: str


class Upload(BaseModel):
    """A presigned PUT: send exactly these headers."""

    url: str
    headers: dict[str, str]
    expires: str


class Form(BaseModel):
    """A POST form: these fields, ``key`` below `prefix` where it isn't among them, then ``file``."""

    url: str
    prefix: str
    fields: dict[str, str]
    max_bytes: int
    expires: str


class Shown(BaseModel):
    """What the token that was shown allows."""

    id: str
    bucket: str
    prefixes: list[str]
    methods: list[str]
    max_bytes: int
    expires: str


class Problem(BaseModel):
    """Why there is no signature, and what to do."""

    error: str
    message: str
    hint: str


class Health(BaseModel):
    """That the service runs."""

    status: str
