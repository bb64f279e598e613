"""A form client that tries again what may work later. Apart from the store's, since it loads `requests`."""

from __future__ import annotations

from agent.grant import Target
from provisioner.retry import DEFAULT_RETRY, Retry
from provisioner.s3.probe import FormClient


class RetryingFormClient(FormClient):
    """Posts as `client` does, and again while that raises Unreachable."""

    def __init__(self, client: FormClient, retry: Retry = DEFAULT_RETRY) -> None:
        self._client = client
        self._retry = retry

    def post(self, target: Target, name: str, data: bytes) -> None:
        """As `FormClient.post`."""
        self._retry(self._client.post, target, name, data)
