"""Where things lie, there and back."""

import pytest

from provisioner.plan.layout import JobKeys, parse_mail, parse_order, parse_outputs
from provisioner.plan.plan import launch_token


@pytest.mark.parametrize("prefix", ["", "p", "a/b"])
def test_the_prefix_of_an_attempts_outputs_is_taken_apart(prefix):
    """A token for it tells whose it is, and so where its status goes."""
    keys = JobKeys(prefix, "hello-1")
    found = parse_outputs(keys.outputs("7", 2))
    assert found == (keys, "7", 2)
    assert found.keys.status(found.task, found.attempt) == keys.status("7", 2)


def test_what_is_taken_apart_is_what_was_put_together():
    """A letter's key and an order's key tell what they were made of; one of another job tells nothing."""
    keys = JobKeys("p", "hello-1")
    other = JobKeys("p", "hello-2")
    token = launch_token("hello-1", "7", 2)
    assert parse_mail(keys.mail_root, keys.mailbox_key("7", 2, 1_000_000)) == ("7", 2, 1_000_000)
    assert parse_mail(keys.mail_root, other.mailbox_key("7", 2, 1)) is None
    assert parse_order(keys.launch_root, keys.order(token)) == token
    assert parse_order(keys.launch_root, other.order(token)) is None


@pytest.mark.parametrize("prefix", ["", "out/0/1/", "p/job/status/0/1/", "p/job/out/0/", "p/j/out/0/x/", "p/j/out/0/1"])
def test_another_prefix_is_none_of_an_attempt(prefix):
    """Then it is a prefix like any other."""
    assert parse_outputs(prefix) is None
