"""The JSON Schema for editors: in step with the parser, which is made from the same table."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import provisioner
from provisioner.errors import BadInput
from provisioner.job import keys, load, spec
from provisioner.s3url import StoreSpec
from tests.unit.job import test_problems
from tests.unit.job.test_spec import MINIMAL, PROVIDERS

SHIPPED = Path(provisioner.__file__).with_name("job") / "job.schema.json"
COMMAND = (
    """python -c "from provisioner.job.keys import dump; print(dump(None), end='')" > provisioner/job/job.schema.json"""
)

# What a schema can't express; each is a sentence of its own in the parser.
BEYOND = (
    "no such file",
    "a directory",
    "regular file",
    "can't be read",
    "start with #!",
    "at or below job.yaml's own folder",
    "a local file",
    "s3://BUCKET/KEY",
    "lands too",
    "own bucket",
    "which ends before",
    "a job of",
    "no output to take checkpoints of",
    "a second time",
    "more than 10000 indexes",
    "255 bytes",
    "surrogate",
    "a finite number",  # JSON has no other
    "a duration such as",
    "a size such as",
    "\\n`",  # `$` of a schema lets a newline at the end through
)

FULL = {
    "name": "full",
    "store": {
        "url": "s3://bucket/p",
        "endpoint_url": "http://h:1",
        "region": "r",
        "addressing": "path",
        "method": "put",
    },
    "vm": {"provider": "ec2", "boot_budget": "5m", "spot": True, "volume_gb": 5, "type": "x"},
    "run": {
        "command": ["a", "b"],
        "env": {"A": "1", "B": 2},
        "files": [{"path": "x", "content": "y", "mode": "0644"}],
        "user": None,
        "timeout": 60,
        "grace": "1s",
    },
    "inputs": ["s3://bucket/k", {"source": "s3://bucket/l", "path": "in/l", "mode": "0600"}],
    "outputs": ["out/**", {"glob": "*.log", "bundle": True, "checkpoint": True}],
    "array": [1, 5],
    "expires": "2d",
    "retries": 3,
    "max_bytes": "1GiB",
    "checkpoint": 60,
}


def validator(providers):
    """A validator of the published schema."""
    schema = keys.json_schema(providers)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


VALIDATORS = {"none": (None, validator(None)), "some": (PROVIDERS, validator(PROVIDERS))}


def judge(document, providers, base):
    """Return the parser's faults; none when it takes the document."""
    try:
        load.parse(document, base=base, where="job.yaml", providers=providers)
    except BadInput as error:
        return error.faults
    return ()


def compare(document, providers, valid, base):
    """Hold the two judgements against each other."""
    faults = judge(document, providers, base)
    by_schema = list(valid.iter_errors(document))
    if not faults:
        assert not by_schema, by_schema[0].message
    elif not by_schema:
        assert all(any(each in fault for each in BEYOND) for fault in faults), faults


def test_in_step():
    """The shipped file is what the table makes; run the command in this test's message to make it anew."""
    assert SHIPPED.read_text(encoding="utf-8") == keys.dump(None), COMMAND


def test_every_key_is_described():
    """An editor can say what each key is for."""

    def named(schema, path=""):
        for name, each in schema.get("properties", {}).items():
            yield f"{path}{name}", each
            yield from named(each, f"{path}{name}.")
        for branch in (*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])):
            yield from named(branch, path)

    missing = [name for name, each in named(keys.json_schema(None)) if not each.get("description")]
    assert missing == []


def test_every_key_has_a_field():
    """Each key of the table is a field of a dataclass, and the other way round."""
    pairs = [(keys.JOB, spec.JobSpec), (keys.OUTPUT, spec.OutputSpec)]
    for table, kind in pairs:
        assert set(table) == set(kind.__dataclass_fields__)
    assert set(keys.RUN) - {"script"} == set(spec.RunSpec.__dataclass_fields__)
    assert set(keys.STORE) - {"url"} == set(StoreSpec.__dataclass_fields__) - {"bucket", "prefix"}
    assert set(keys.VM) == set(spec.VmSpec.__dataclass_fields__) - {"options"}


@pytest.mark.parametrize("known", VALIDATORS)
def test_the_full_document(known, tmp_path):
    """Both take a document with every key."""
    providers, valid = VALIDATORS[known]
    assert judge(FULL, providers, tmp_path) == ()
    assert list(valid.iter_errors(FULL)) == []


@pytest.mark.parametrize("number", range(len(test_problems.CASES)))
def test_wrong_documents(number, tmp_path):
    """What the schema lets through and the parser doesn't is only what a schema can't say."""
    document, _ = test_problems.CASES[number]
    if not (isinstance(document, dict) and 5 in document):  # JSON has no such key
        compare(document, None, VALIDATORS["none"][1], tmp_path)


@pytest.mark.parametrize(("options", "_"), test_problems.OPTIONS)
def test_wrong_options(options, _, tmp_path):
    """The schema refuses what the parser refuses of a provider's options."""
    providers, valid = VALIDATORS["some"]
    document = {**MINIMAL, "vm": options}
    assert judge(document, providers, tmp_path)
    if "boot_budget" not in options:  # a duration's range in text is beyond a schema
        assert list(valid.iter_errors(document))


def places(document, path=()):
    """Every place in a document."""
    yield path
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, each in items:
        yield from places(each, (*path, key))


KEYS = [*keys.JOB, *keys.RUN, *keys.STORE, *keys.VM, *keys.OUTPUT, "path", "source", "content"]
TEXTS = [
    "0-3",
    "1h",
    "5GiB",
    "s3://bucket/k",
    "../x",
    "/x",
    "x/",
    "",
    "auto",
    "ec2",
    "local",
    "spot",
    "0644",
    "A",
    "x\n",
]
WORDS = st.sampled_from([*KEYS, *TEXTS])
SCALARS = st.none() | st.booleans() | st.integers(-2, 700_000) | st.floats() | WORDS | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=6
)


@st.composite
def mutations(draw):
    """The full document with a few places replaced, dropped or added to."""
    document = copy.deepcopy(FULL)
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from([each for each in places(document) if each] or [()]))
        if not path:
            return document
        container = document
        for step in path[:-1]:
            container = container[step]
        action = draw(st.sampled_from(["replace", "replace", "drop", "add"]))
        if action == "drop":
            del container[path[-1]]
        elif action == "add" and isinstance(container, dict):
            container[draw(WORDS)] = draw(VALUES)
        else:
            container[path[-1]] = draw(VALUES)
    return document


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=mutations(), known=st.sampled_from(sorted(VALIDATORS)))
def test_any_document(document, known, tmp_path):
    """Whatever is done to a document, the two agree, and the parser only ever raises BadInput."""
    providers, valid = VALIDATORS[known]
    compare(document, providers, valid, tmp_path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=VALUES)
def test_any_value(document, tmp_path):
    """A document of any shape is judged, never a traceback, and every fault is one line."""
    found = judge(document, None, tmp_path)
    assert found
    assert all("\n" not in each for each in found)


def test_the_file_is_plain_json():
    """None of the parser's own keywords is published."""
    assert '"x-' not in SHIPPED.read_text(encoding="utf-8")
    assert json.loads(SHIPPED.read_text(encoding="utf-8"))["required"] == ["name", "run"]
