"""The environment of a process whose loaded modules a test looks at: without coverage, which loads some of its own."""

import os


def environment():
    """This process's environment, without the variables by which `.ci/coverage` has processes measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
