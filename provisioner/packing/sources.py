"""The sources of the agent as they are before they are made small."""

from __future__ import annotations

from provisioner import resources
from provisioner.packing.minify import shake, write_out

# `__main__.py` of the archive. It skips the interpreter's shutdown, which would take a seventh of the time of a small
# file: everything is written and flushed by then.
MAIN = "import os\nfrom agent.main import main\nos._exit(main())\n"


def needed_sources() -> dict[str, str]:
    """The sources of all that travels, as yet with all of their names, by the names of their files."""
    sources = {name: source.decode() for name, source in resources.agent_sources().items()}
    return shake(write_out({**sources, "agent/__main__.py": MAIN}))
