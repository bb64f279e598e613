"""Uploads through `requests`: an independent client that proves what was signed before a VM is paid for.

If it is accepted, then bucket, region, clock, key and policy are right, and what the VM uploads will be accepted too.
"""

from __future__ import annotations

import threading
from typing import Any

import requests

from agent.errors import parse_reply
from agent.grant import Target
from provisioner.errors import NoForms, NotFound
from provisioner.s3 import put_slots
from provisioner.s3.answers import Answer, unreachable
from provisioner.s3.bucket import Store
from provisioner.s3.signing import checksum_sha256

TIMEOUT_SECONDS = (10, 30)  # to connect; between bytes
_SHOWN = 200  # characters of a store's Message in a sentence of ours


class FormClient:
    """Posts for any number of threads, each over a connection that it keeps. It does each thing once, like a store."""

    def __init__(self) -> None:
        self._threads = threading.local()

    def post(self, target: Target, name: str, data: bytes) -> None:
        """Store one small object below the target's prefix, by form or PUT. Raise what the store's answer means.

        NoForms when it takes no forms: by what such stores were seen to answer, or document.
        """
        forms = not put_slots.takes_puts(target)
        more: dict[str, Any] = {"timeout": TIMEOUT_SECONDS, "allow_redirects": False}
        try:
            if forms:
                fields = target.form(key=target.prefix + name, **{"x-amz-checksum-sha256": checksum_sha256(data)})
                answer = self._session.post(target.url, data=fields, files={"file": (name, data)}, **more)
            else:
                answer = self._session.put(put_slots.slot_url(target, name), data=data, **more)
        except requests.RequestException as error:
            raise unreachable(target.url, error) from None
        if answer.ok and not answer.is_redirect:
            return
        told = Answer(answer.status_code, *(text[:_SHOWN] for text in parse_reply(answer.content)))
        # R2 and B2 answer 501; rclone 1.75 looks for a signature in the header only: 400 UnsupportedAlgorithm.
        if forms and told.meaning == "unsupported":
            raise NoForms(
                "the store takes no uploads by form",
                hint="set store.method: put, or use a store that does (AWS S3, SeaweedFS, Ceph, MinIO, Garage, GCS)",
            )
        raise told.error(f"write {target.prefix}{name}")

    @property
    def _session(self) -> requests.Session:
        """The connections of this thread."""
        if not hasattr(self._threads, "session"):
            self._threads.session = requests.Session()
        session: requests.Session = self._threads.session
        return session


def verify_stored(store: Store, key: str) -> None:
    """Raise NoForms when an object that was just posted isn't there.

    Ceph RGW 16.2 answers 204 to a form that a role's session with an inline policy signed, and keeps nothing.
    """
    try:
        store.size(key)
    except NotFound:
        raise NoForms(
            "the store answered that it took an upload by form, but has not kept it",
            hint="Ceph 16.2 does so when a signer's session signs: leave out signer, or set store.method: put",
        ) from None
