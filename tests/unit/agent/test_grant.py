"""The grant against its published vectors, tests/vectors/grant/v1: files that never change."""

import base64
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import check, grant

VECTORS = Path(__file__).parents[2] / "vectors" / "grant" / "v1"


def vector(name):
    return json.loads((VECTORS / name).read_text())


@pytest.mark.parametrize("name", ["grant.json", "grant-with-unknown-fields.json"])
def test_a_grant_is_read(name):
    """Every field is there, unknown ones are ignored, and what is dumped is what was read."""
    found = grant.parse((VECTORS / name).read_bytes())
    assert (found.job, found.task, found.attempt, found.expires) == ("hello-7f3k", "0", 1, 1795467600)
    assert found.outputs.prefix == "p/hello-7f3k/out/0/1/"
    assert found.outputs.size_range() == (0, 5 << 30)
    assert found.outputs.covers("X-Amz-Checksum-SHA256")
    assert not found.outputs.covers("acl")
    assert [item["path"] for item in found.inputs] == ["data.csv"]
    assert json.loads(grant.dump(found)) == vector("grant.json")
    assert grant.parse(grant.dump(found)) == found


@pytest.mark.parametrize("case", vector("refused.json"), ids=lambda case: case["why"])
def test_a_bad_grant_is_refused(case):
    """What is not a grant is refused by an error that doesn't quote it."""
    with pytest.raises(grant.GrantError) as caught:
        grant.parse(case["text"])
    assert type(caught.value).__name__ == case["error"]
    assert caught.value.__cause__ is None
    assert "AKIDEXAMPLE" not in str(caught.value)


@pytest.mark.parametrize("case", vector("policies.json"), ids=lambda case: case["why"])
def test_a_policy_is_evaluated(case):
    """The evaluation of a policy against a form tells each condition that a store would find broken."""
    found = check.violations(case["policy"], case["form"], case["size"], case["now"])
    assert found == case["violations"]


@pytest.mark.parametrize(("text", "seconds"), vector("times.json"))
def test_times(text, seconds):
    """Times are read as S3 writes them, and written without a fraction."""
    assert grant.instant(text) == seconds
    assert grant.instant(grant.timestamp(seconds)) == seconds


@pytest.mark.parametrize(("name", "key"), vector("names.json"))
def test_names(name, key):
    """File names become these keys, and come back."""
    path = os.fsdecode(bytes.fromhex(name))
    assert grant.encode_name(path) == key
    assert grant.decode_name(key) == path


@given(st.binary(min_size=1, max_size=99))
def test_any_name_comes_back_and_breaks_out_of_nothing(name):
    """Whatever bytes a name has, its key is printable text, expands to nothing, and decodes to the same bytes."""
    key = grant.encode_name(os.fsdecode(name))
    assert os.fsencode(grant.decode_name(key)) == name
    assert key.isprintable()
    assert "${" not in key


def test_a_repr_shows_no_secret():
    """Neither a grant nor a target shows its policy or signature when it is printed."""
    found = grant.parse((VECTORS / "grant.json").read_bytes())
    for shown in (repr(found), repr(found.outputs), str(found), "%r" % (found.outputs,)):  # noqa: UP031 - as the agent
        assert "AKIDEXAMPLE" not in shown
        assert "00000000" not in shown


def test_a_form_has_what_is_signed():
    """The form carries the fields, the policy's exact bytes in base64, the key, and what is added."""
    target = grant.parse((VECTORS / "grant.json").read_bytes()).outputs
    form = target.form(key="p/k", **{"x-amz-checksum-sha256": "sum"})
    assert {**target.fields, "key": "p/k", "policy": form["policy"], "x-amz-checksum-sha256": "sum"} == form
    assert base64.b64decode(form["policy"]).decode() == target.policy
