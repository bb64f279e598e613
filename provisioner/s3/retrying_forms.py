"""A form client that tries again what may work later. Apart from the store's, since it loads `requests`."""

from __future__ import annotations

from agent.grant import Target
from provisioner.retry import DEFAULT_RETRY, Retry
from provisioner.s3.probe import Poster


class RetryingPoster(Poster):
    """Posts as `poster` does, and again while that raises Unreachable."""

    def __init__(self, poster: Poster, retry: Retry = DEFAULT_RETRY) -> None:
        self._poster = poster
        self._retry = retry

    def post(self, target: Target, name: str, data: bytes) -> None:
        """As `Poster.post`."""
        self._retry(self._poster.post, target, name, data)
