"""Freepost: run batch jobs on VMs that hold no cloud credentials, and collect their results from S3.

The names are those of `provisioner.api`, which is loaded when one of them is used: importing this costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provisioner.api import (
        BadInput,
        Collected,
        Event,
        Expiry,
        FreepostError,
        Incomplete,
        Integrity,
        Job,
        JobFailed,
        JobSource,
        Link,
        MissingDependency,
        NoCapacity,
        NoCredentials,
        NotFound,
        Plan,
        Refused,
        Rendering,
        Report,
        Stopped,
        StoreLocation,
        TaskReport,
        TaskStatus,
        Unreachable,
        Unsupported,
        __version__,
        download_url,
        job,
        jobs,
        launch,
        plan,
        render,
        sign,
        upload_url,
    )

__all__ = [
    "BadInput",
    "Collected",
    "Event",
    "Expiry",
    "FreepostError",
    "Incomplete",
    "Integrity",
    "Job",
    "JobFailed",
    "JobSource",
    "Link",
    "MissingDependency",
    "NoCapacity",
    "NoCredentials",
    "NotFound",
    "Plan",
    "Refused",
    "Rendering",
    "Report",
    "Stopped",
    "StoreLocation",
    "TaskReport",
    "TaskStatus",
    "Unreachable",
    "Unsupported",
    "__version__",
    "download_url",
    "job",
    "jobs",
    "launch",
    "plan",
    "render",
    "sign",
    "upload_url",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("provisioner.api"), name)


def __dir__() -> list[str]:
    return __all__
