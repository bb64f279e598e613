"""Where things lie on the operator's own machine: the platform's state and cache folders."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def state_dir() -> Path:
    """The folder for what must not be lost (embedded store, local jobs). FREEPOST_STATE_DIR overrides it."""
    override = os.environ.get("FREEPOST_STATE_DIR")
    return Path(override) if override else Path(platformdirs.user_state_path("freepost"))


def cache_dir() -> Path:
    """The folder for what can be made again (machine images). FREEPOST_CACHE_DIR overrides it."""
    override = os.environ.get("FREEPOST_CACHE_DIR")
    return Path(override) if override else Path(platformdirs.user_cache_path("freepost"))
