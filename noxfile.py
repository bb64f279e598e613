"""The project's tasks. `pip install -e '.[local,test,dev]'`, then `nox`; `nox -l` lists them.

The checks run in the environment that nox is in; `tests-X.Y` each get one of their own.
"""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "types", "imports", "docs"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True

# Not 3.14, which few have yet, because a missing interpreter is an error: `.ci/bare sid root` runs the tests on it.
OPERATOR_PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
AGENT_PYTHONS = ["3.6", "3.8", "3.10", "3.13", "3.14"]
COGGED = ["README.md", "docs/reference.md", "docs/api.md"]


@nox.session(python=OPERATOR_PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the default tests on one of the operator's Pythons."""
    session.install("-q", "-e", ".[local,test]")
    session.run("pytest", *session.posargs)


@nox.session(python=False)
def lint(session: nox.Session) -> None:
    """Hold rules and format."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=False)
def types(session: nox.Session) -> None:
    """Hold the types of provisioner/."""
    session.run("mypy")


@nox.session(python=False)
def imports(session: nox.Session) -> None:
    """Hold the layers: who may import whom."""
    session.run("lint-imports", "--no-logo")


@nox.session(python=False)
def docs(session: nox.Session) -> None:
    """Check the outputs that the docs show; `nox -s docs -- -r` writes them anew."""
    mode = session.posargs or ["--check", "--diff"]
    session.run("cog", "-I", ".ci", *mode, *COGGED, env={"COLUMNS": "100", "TERM": "dumb"})


@nox.session(python=False)
def coverage(session: nox.Session) -> None:
    """Measure which lines the default tests run; `-- -m "e2e and not vm"` the whole machines."""
    session.run(".ci/coverage", "run", "pytest", *session.posargs, external=True, success_codes=[0, 1])
    session.run(".ci/coverage", "report", external=True)


def _agent_session(version: str) -> None:
    @nox.session(python=False, name=f"agent-{version}")
    def agent(session: nox.Session) -> None:
        """Run the agent's tests on this Python, which must be there."""
        session.run("pytest", "-k", version, *session.posargs, env={"FREEPOST_AGENT_PYTHON": version})


for _version in AGENT_PYTHONS:
    _agent_session(_version)


@nox.session(python=False)
def e2e(session: nox.Session) -> None:
    """Boot whole machines. Needs root and the packages of .ci/apt-packages.txt."""
    session.run("pytest", "-m", "e2e", *session.posargs)


@nox.session(python=False)
def faults(session: nox.Session) -> None:
    """Kill, stall and break things, many rounds."""
    session.run("pytest", "-m", "faults", *session.posargs)


@nox.session(python=False)
def bench(session: nox.Session) -> None:
    """Measure."""
    session.run("pytest", "-m", "bench", "-s", *session.posargs)
