"""job.yaml to a JobSpec: what is right."""

import sys
from pathlib import Path

import pytest

from provisioner.job import load, spec
from provisioner.job.spec import FileSpec, InputSpec, OutputSpec, RunSpec, VmSpec
from provisioner.s3url import StoreSpec
from tests.support import unmeasured

MINIMAL = {"name": "hello", "run": {"command": "true"}}
PROVIDERS = {
    "ec2": {
        "type": {"type": "string", "default": "t3.micro"},
        "spot": {"type": "boolean"},
        "volume_gb": {"type": "integer", "minimum": 1, "maximum": 100},
    },
    "local": {},
}


def parse(base=Path(), providers=None, **keys):
    """Parse the smallest document with these keys on top."""
    return load.parse({**MINIMAL, **keys}, base=base, where="job.yaml", providers=providers)


def test_defaults():
    """The smallest job gets every default that the docs state."""
    assert parse() == spec.JobSpec(
        name="hello",
        run=RunSpec(command=("/bin/sh", "-c", "true"), env={}, files=(), user="job", timeout=3600, grace=60),
        store=None,
        vm=VmSpec(provider=None, boot_budget=600, options={}),
        inputs=(),
        outputs=(),
        array=(),
        expires=None,
        retries=0,
        max_bytes=5 * 1024**3,
        checkpoint=None,
    )
    assert parse().tasks == ("0",)
    assert parse().deadline == 600 + 3600 + 60


def test_every_key(tmp_path):
    """A file with every key in it is read whole."""
    (tmp_path / "work.sh").write_text("#!/bin/sh\n")
    (tmp_path / "in.csv").write_text("a,b\n")
    (tmp_path / "job.yaml").write_text("""
name: all-keys
store: {url: s3://bucket/some/prefix/, endpoint_url: "http://127.0.0.1:9000", region: eu-central-1,
        addressing: path, profile: lab, method: auto}
vm: {provider: ec2, boot_budget: 5m, spot: true}
run:
  script: work.sh
  env: {SEED: 7, VERSION: 1.10, CODE: 007, BIG: 1e30, TEXT: "yes"}
  files:
    - {path: conf/run.json, content: "{}", mode: 0600}
  user: null
  timeout: 1h30m
  grace: 0
inputs:
  - in.csv
  - {source: "s3://bucket/data/big.bin", path: ./data/big.bin}
outputs: [./out/**, {glob: "*.log", bundle: true, checkpoint: yes}]
array: 0-4:2
expires: 2d
retries: 3
max_bytes: 64MiB
checkpoint: 10m
""")
    made = load.load(tmp_path / "job.yaml", providers=PROVIDERS)
    assert made == spec.JobSpec(
        name="all-keys",
        store=StoreSpec("bucket", "some/prefix", "http://127.0.0.1:9000", "eu-central-1", "path", "lab", "auto"),
        vm=VmSpec("ec2", 300, {"spot": True, "type": "t3.micro"}),
        run=RunSpec(
            command=("./work.sh",),
            env={"SEED": "7", "VERSION": "1.10", "CODE": "007", "BIG": "1e30", "TEXT": "yes"},
            files=(FileSpec("conf/run.json", b"{}", "0600"), FileSpec("work.sh", b"#!/bin/sh\n", "0755")),
            user=None,
            timeout=5400,
            grace=0,
        ),
        inputs=(
            InputSpec("in.csv", tmp_path / "in.csv", "0644"),
            InputSpec("data/big.bin", "s3://bucket/data/big.bin", "0644"),
        ),
        outputs=(OutputSpec("out/**"), OutputSpec("*.log", bundle=True, checkpoint=True)),
        array=(0, 2, 4),
        expires=2 * 86400,
        retries=3,
        max_bytes=64 * 1024**2,
        checkpoint=600,
    )
    assert made.tasks == ("0", "2", "4")
    assert made.deadline == 300 + 5400


def test_store_as_text():
    """A store may be its URL alone; slashes at the prefix's ends don't count."""
    assert parse(store="s3://bucket").store == StoreSpec("bucket")
    assert parse(store="s3://bucket/").store == StoreSpec("bucket")
    assert parse(store="s3://my.bucket/a/b/").store == StoreSpec("my.bucket", "a/b")


def test_text_may_end_in_a_newline():
    """A program in a block of YAML, and a value of the environment, keep the newline that they end in."""
    found = parse(run={"command": ["python3", "-c", "print(1)\n"], "env": {"A": "x\n"}})
    assert found.run.command == ("python3", "-c", "print(1)\n")
    assert dict(found.run.env) == {"A": "x\n"}


def test_command_as_list():
    """A list is run as it is, without a shell; an empty argument stays."""
    assert parse(run={"command": ["python3", "-c", ""]}).run.command == ("python3", "-c", "")


@pytest.mark.parametrize(
    ("written", "indexes"),
    [
        (1, (0,)),
        (4, (0, 1, 2, 3)),
        ("0-3", (0, 1, 2, 3)),
        ("0-9:4", (0, 4, 8)),
        ("7,1-2", (7, 1, 2)),
        ([1, 5, 7], (1, 5, 7)),
        ("0-9999", tuple(range(10_000))),
    ],
)
def test_array(written, indexes):
    """An array is a count, ranges or a list."""
    assert parse(array=written).array == indexes
    assert parse(array=written).tasks == tuple(map(str, indexes))


def test_files_keep_their_executable_bit(tmp_path):
    """A local file is 0755 where it is executable at home, else 0644, and an explicit mode wins."""
    for name, mode in (("tool", 0o700), ("data", 0o600)):
        (tmp_path / name).write_bytes(b"\xff\x00")
        (tmp_path / name).chmod(mode)
    run = {"command": "true", "files": ["tool", "data", {"source": "tool", "path": "bin/tool", "mode": "0500"}]}
    made = parse(base=tmp_path, run=run)
    assert [(file.path, file.content, file.mode) for file in made.run.files] == [
        ("tool", b"\xff\x00", "0755"),
        ("data", b"\xff\x00", "0644"),
        ("bin/tool", b"\xff\x00", "0500"),
    ]


def test_file_from_elsewhere(tmp_path):
    """A source outside job.yaml's folder lands under its own name unless a path says otherwise."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "shared.txt").write_text("x")
    absolute = str(tmp_path / "shared.txt")
    found = parse(
        base=tmp_path / "jobs",
        run={"command": "true", "files": [{"source": "../shared.txt"}]},
        inputs=[{"source": absolute, "path": "in/shared.txt"}, {"source": "s3://bucket/k/other.txt"}],
    )
    assert [file.path for file in found.run.files] == ["shared.txt"]
    assert [file.path for file in found.inputs] == ["in/shared.txt", "other.txt"]
    assert found.inputs[0].source == Path(absolute)


def test_a_spec_shows_no_file_and_no_environment(tmp_path):
    """People put secrets into files and the environment: no repr of a spec holds one."""
    run = {"command": "true", "env": {"TOKEN": "hush"}, "files": [{"path": "a", "content": "hush"}]}
    assert "hush" not in repr(parse(base=tmp_path, run=run))


def test_options_without_known_providers():
    """A caller that knows no providers lets every option through."""
    assert parse(vm={"provider": "mine", "size": [1]}).vm == VmSpec("mine", 600, {"size": (1,)})


def test_options_without_a_named_provider():
    """Without a provider an option may be of any provider, and no provider's default is filled in."""
    assert parse(vm={"spot": True}, providers=PROVIDERS).vm == VmSpec(None, 600, {"spot": True})


def test_merge_keys_and_anchors(tmp_path):
    """Anchors, aliases and merge keys work; an explicit key beats a merged one, and the order is the file's."""
    (tmp_path / "job.yaml").write_text("""
name: anchors
vm: {}
run:
  command: &line echo hi
  env:
    <<: [{B: "1", C: "1"}, {C: "2", D: *line}]
    B: own
""")
    env = load.load(tmp_path / "job.yaml").run.env
    assert list(env.items()) == [("B", "own"), ("C", "1"), ("D", "echo hi")]


def test_imports_nothing_that_acts():
    """Reading a job.yaml loads neither boto3 nor subprocess nor a socket."""
    import subprocess

    loaded = "sorted({'boto3', 'botocore', 'subprocess', 'socket', 'requests'} & set(sys.modules))"
    program = f"import sys, provisioner.job.load; print({loaded})"
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=unmeasured.environment())
    assert done.stdout == "[]\n"
