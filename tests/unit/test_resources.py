"""The files that travel with the package."""

import ast
from pathlib import Path

import agent.grant
from provisioner import resources


def test_templates_is_a_folder():
    """The templates are found from a checkout."""
    assert resources.templates().is_dir()


def test_agent_sources_are_the_agent():
    """Every source of the agent is there, sorted, under its name in the archive, as it is on disk."""
    sources = resources.agent_sources()
    assert list(sources) == sorted(sources)
    assert {"agent/__init__.py", "agent/grant.py"} <= set(sources)
    assert sources["agent/grant.py"] == Path(agent.grant.__file__).read_bytes()
    for name, source in sources.items():
        ast.parse(source, name)
