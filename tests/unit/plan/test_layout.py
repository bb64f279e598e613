"""Where things lie, there and back."""

import pytest

from provisioner.plan.layout import JobKeys, parse_outputs


@pytest.mark.parametrize("prefix", ["", "p", "a/b"])
def test_the_prefix_of_an_attempts_outputs_is_taken_apart(prefix):
    """A token for it tells whose it is, and so where its status goes."""
    keys = JobKeys(prefix, "hello-1")
    found = parse_outputs(keys.outputs("7", 2))
    assert found == (keys, "7", 2)
    assert found.keys.status(found.task, found.attempt) == keys.status("7", 2)


@pytest.mark.parametrize("prefix", ["", "out/0/1/", "p/job/status/0/1/", "p/job/out/0/", "p/j/out/0/x/", "p/j/out/0/1"])
def test_another_prefix_is_none_of_an_attempt(prefix):
    """Then it is a prefix like any other."""
    assert parse_outputs(prefix) is None
