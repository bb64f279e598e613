"""Validation by cloud-init's own schema, found where cloud-init is; and the words when there is none."""

import hashlib
import json
from pathlib import Path

import pytest

from provisioner.errors import BadInput
from provisioner.userdata import validate
from tests.unit.userdata.test_render import load, rendered

ROOT = Path(__file__).parents[3]
GOOD = b"#cloud-config\nruncmd:\n  - 'true'\n"
# A schema in the form of cloud-init's, for what doesn't depend on which keys cloud-init has.
RULES = {
    "$schema": "http://json-schema.org/draft-04/schema#",
    "$defs": {
        "cc_runcmd": {"type": "object", "properties": {"runcmd": {"type": "array", "items": {"type": "string"}}}}
    },
    "allOf": [{"$ref": "#/$defs/cc_runcmd"}],
}


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No schema on this machine but the one that the test puts at the returned path."""
    path = tmp_path / "schema.json"
    monkeypatch.setattr(validate, "_places", lambda: iter([path]))
    return path


@pytest.fixture
def real():
    """cloud-init's own schema."""
    found = validate.find_schema()
    if found is None:
        pytest.skip("no cloud-init's schema on this machine: apt-get install cloud-init")
    return found


@pytest.mark.parametrize("example", ["hello", "pi"])
def test_cloud_init_takes_what_we_render(real, example):
    """The document of each example breaks no rule of cloud-init's own schema."""
    assert validate.faults(rendered(load(ROOT / "examples" / example / "job.yaml")).plain, real.rules) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((b"#cloud-config", b"#cloud-confg"), "line 1"),
        ((b"write_files:", b"write-files:"), "write-files"),
        ((b"encoding: b64", b"encoding: xz"), "encoding"),
        ((b"permissions: ", b"permission: "), "write_files.0"),
        ((b"runcmd:\n", b"runcmd: 3\nfinal_message:\n"), "runcmd"),
    ],
)
def test_a_broken_document_is_refused(real, change, says):
    """What cloud-init would ignore or stumble over is refused, with the place, and none of its content."""
    plain = rendered(load(ROOT / "examples/hello/job.yaml")).plain
    found = validate.faults(plain.replace(*change, 1), real.rules)
    assert any(says in fault for fault in found), found
    assert "x-amz" not in str(found)


@pytest.mark.parametrize(
    ("plain", "says"),
    [
        (b"#!/bin/sh\n", "line 1"),
        (b"#cloud-config\na: [\n", "YAML"),
        (b"#cloud-config\n- a\n", "mapping"),
        (b"#cloud-config\nruncmd: secret\n", 'runcmd: breaks the rule type "array"'),
        (b"#cloud-config\nrun_cmd: [secret]\n", "run_cmd: no module"),
    ],
)
def test_faults_name_the_place_and_not_the_content(plain, says):
    """Each fault is one line that says where and which rule."""
    (fault,) = validate.faults(plain, RULES)
    assert says in fault
    assert "secret" not in fault


def test_no_schema_is_said(nowhere):
    """Without a schema the launch goes on, and an event says that nothing was validated."""
    events = []
    validate.check(GOOD, events.append)
    assert [event.name for event in events] == ["unvalidated"]
    assert "not validated" in events[0].text


def test_a_schema_that_is_no_json_is_refused(nowhere):
    """A schema that can't be read is never taken for a document that passed."""
    nowhere.write_text("{")
    with pytest.raises(BadInput, match="can't be read"):
        validate.check(GOOD, print)


def test_a_refused_document_is_never_launched(nowhere, provision, opened):
    """A launch whose user-data the schema refuses ends with exit code 2, before anything is in the bucket."""
    nowhere.write_text(json.dumps(RULES))
    done = provision.launch("examples/hello/job.yaml")
    assert done.code == 2
    assert "schema refuses" in done.err
    assert "write_files" in done.err
    assert list(opened.list("")) == []


def test_the_bundled_copy_is_one_that_was_looked_at():
    """What a build took out of Debian's package has one of the sums that pyproject.toml pins."""
    if not validate.BUNDLED.exists():
        pytest.skip("this build carries no schema: apt knew no cloud-init where it was made")
    assert hashlib.sha256(validate.BUNDLED.read_bytes()).hexdigest() in (ROOT / "pyproject.toml").read_text()
