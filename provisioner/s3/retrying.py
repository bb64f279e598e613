"""A store that tries again what may work later (`provisioner.retry`), method by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provisioner.retry import DEFAULT_RETRY, Download, Retry
from provisioner.s3.bucket import ObjectInfo, Store


class RetryingStore(Store):
    """Does what `store` does, and each of it again while it raises Unreachable."""

    def __init__(self, store: Store, retry: Retry = DEFAULT_RETRY) -> None:
        self._store = store
        self._retry = retry
        self.bucket = store.bucket
        self.prefix = store.prefix
        self.credentials = store.credentials

    def list(self, prefix: str, *, after: str = "") -> list[ObjectInfo]:
        """As `Store.list`."""
        return self._retry(self._store.list, prefix, after=after)

    def region(self) -> str:
        """As `Store.region`."""
        return self._retry(self._store.region)

    def folders(self, prefix: str) -> Sequence[str]:
        """As `Store.folders`."""
        return self._retry(self._store.folders, prefix)

    def size(self, key: str) -> int:
        """As `Store.size`."""
        return self._retry(self._store.size, key)

    def get(self, key: str) -> bytes:
        """As `Store.get`."""
        return self._retry(self._store.get, key)

    def fetch(self, key: str, into: Download, *, chunk: int = 1 << 20) -> None:
        """As `Store.fetch`: a second try goes on where the first one ended."""
        self._retry(self._store.fetch, key, into, chunk=chunk)

    def put(self, key: str, data: bytes, *, content_type: str = "application/json") -> None:
        """As `Store.put`."""
        self._retry(self._store.put, key, data, content_type=content_type)

    def upload(self, key: str, source: Path) -> None:
        """As `Store.upload`: each try opens the file anew."""
        self._retry(self._store.upload, key, source)

    def uploads(self, prefix: str) -> Sequence[tuple[str, str]]:
        """As `Store.uploads`."""
        return self._retry(self._store.uploads, prefix)

    def begin_upload(self, key: str) -> str:
        """As `Store.begin_upload`: a try whose answer was lost leaves an upload without parts."""
        return self._retry(self._store.begin_upload, key)

    def abort_upload(self, key: str, upload: str) -> None:
        """As `Store.abort_upload`."""
        self._retry(self._store.abort_upload, key, upload)

    def delete(self, keys: Sequence[str]) -> None:
        """As `Store.delete`."""
        self._retry(self._store.delete, keys)

    def cors(self) -> Sequence[Mapping[str, Any]]:
        """As `Store.cors`."""
        return self._retry(self._store.cors)

    def set_cors(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """As `Store.set_cors`."""
        self._retry(self._store.set_cors, rules)

    def policy(self) -> str | None:
        """As `Store.policy`."""
        return self._retry(self._store.policy)

    def set_policy(self, text: str | None) -> None:
        """As `Store.set_policy`."""
        self._retry(self._store.set_policy, text)
