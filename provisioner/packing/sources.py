"""The sources of the agent as they are before they are made small, and which of them every VM gets."""

from __future__ import annotations

from provisioner import resources

# `__main__.py` of the archive. It skips the interpreter's shutdown, which would take a seventh of the time of a small
# file: everything is written and flushed by then.
MAIN = "import os\nfrom agent.main import main\nos._exit(main())\n"
# Modules that are always in the user-data.
CORE = (
    "__init__",
    "boot",
    "console",
    "errors",
    "files",
    "form_upload",
    "grant",
    "grantfile",
    "http",
    "job_process",
    "journal",
    "main",
    "push",
    "retry",
    "task",
    "upload",
    "upload_units",
    "worker_reports",
    "workers",
)


def needed_sources() -> dict[str, str]:
    """The sources of all that travels, as yet with all of their names, by the names of their files."""
    from provisioner.packing.minify import shake, write_out  # not at each launch: what it imports takes long to load

    sources = {name: source.decode() for name, source in resources.agent_sources().items()}
    return shake(write_out({**sources, "agent/__main__.py": MAIN}))
