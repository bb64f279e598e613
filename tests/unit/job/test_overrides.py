"""``--set key=value``."""

import pytest

from provisioner.errors import BadInput
from provisioner.job import load, spec
from provisioner.s3url import StoreSpec

JOB = """
name: hello
store: s3://bucket/prefix
run:
  command: 'true'
  env: &env {A: "1"}
outputs: [out/**]
vm: {x: *env}
"""


@pytest.fixture
def path(tmp_path):
    """A job.yaml."""
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path / "job.yaml"


def test_values(path):
    """A value is YAML; the key may be new, an item, or a part of what the file wrote in short."""
    made = load.load(
        path,
        [
            "name=other",
            "run.timeout=2h",
            "array=10",
            "outputs=[a, b]",
            "outputs[1].bundle=true",
            "outputs[2]=c",
            "store.region=eu-1",
            "run.files[0].path=x",
            "run.files[0].content=",
            "max_bytes=10MB",
        ],
    )
    assert (made.name, made.run.timeout, len(made.array), made.max_bytes) == ("other", 7200, 10, 10_000_000)
    assert made.outputs == (spec.OutputSpec("a"), spec.OutputSpec("b", bundle=True), spec.OutputSpec("c"))
    assert made.store == StoreSpec("bucket", "prefix", region="eu-1")
    assert made.run.files == (spec.FileSpec("x", b""),)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("7", "7"),
        ("1.10", "1.10"),
        ("true", "true"),
        ("", ""),
        ("'quoted'", "quoted"),
        ("a=b", "a=b"),
        ("null", "null"),
    ],
)
def test_environment(path, written, text):
    """A shell eats quotes: under run.env every scalar is text, as it was written."""
    assert load.load(path, [f"run.env.SEED={written}"]).run.env == {"A": "1", "SEED": text}


def test_later_wins(path):
    """Of two settings of one key the later holds, and an alias elsewhere keeps its value."""
    made = load.load(path, ["run.env.A=2", "run.env.A=3"])
    assert made.run.env == {"A": "3"}
    assert made.vm.options == {"x": {"A": "1"}}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("run.timeout", "--set: run.timeout: found no =; allowed: KEY=VALUE"),
        ("=5", "--set: found no key and value; allowed: KEY=VALUE"),
        ("run..timeout=5", "--set: run..timeout: found no key"),
        ("outputs[x]=5", "--set: outputs[x]: found no key"),
        ("run.timout=5", "--set: run.timout: found an unknown key; allowed: command"),
        ("run.timeout=5 years", "--set: run.timeout: found `5 years`"),
        ("array=-1", "--set: array: found -1"),
        ("outputs=out/**", "--set: outputs: found `out/**`; allowed: a list"),
        ("outputs[7]=x", "--set: outputs[7]: found a list of 1 above `7`; allowed: an index up to 1"),
        ("name.first=x", "--set: name.first: found `hello` above `first`; allowed: a mapping or a list above it"),
        ("run.env.A=[1]", "--set: run.env.A: found a list of 1"),
        ("run.env.A=@x", "--set run.env.A: found broken YAML"),
        ("array=[1", "--set array: found broken YAML"),
        ("run.user=null\n---\n5", "--set run.user: found a second document"),
        ("run.env={A: 1, A: 2}", "--set run.env: A: found the key again (first at --set run.env)"),
        ("retries=", "--set: retries: found empty text"),
    ],
)
def test_fault(path, setting, expected):
    """A wrong setting says that it was a setting, and is checked like a key of the file."""
    with pytest.raises(BadInput) as caught:
        load.load(path, [setting])
    (fault,) = caught.value.faults
    assert fault.startswith(expected)


def test_faults_of_file_and_settings_come_together(path):
    """Each fault says where it came from."""
    path.write_text(JOB + "retries: 99\n")
    with pytest.raises(BadInput) as caught:
        load.load(path, ["name=X", "nope"])
    places = [each.removeprefix(str(path)).split(" found")[0] for each in caught.value.faults]
    assert places == ["--set: nope:", "--set: name:", ":9: retries:"]
