"""job.yaml to a JobSpec: what is wrong, told all at once, each fault with its place and what is allowed."""

import os
import re
import tempfile
from pathlib import Path

import pytest

from provisioner.errors import BadInput
from provisioner.job import load
from tests.unit.job.test_spec import MINIMAL, PROVIDERS


@pytest.fixture
def base(tmp_path):
    """A folder with a script, a data file and a folder in it."""
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "data.csv").write_text("1\n")
    (tmp_path / "folder").mkdir()
    return tmp_path


def faults(base, document, providers=None):
    """Parse a document that is wrong and return its faults."""
    with pytest.raises(BadInput) as caught:
        load.parse(document, base=base, where="job.yaml", providers=providers)
    return list(caught.value.faults)


def run(**keys):
    """A document whose run has these keys."""
    return {"name": "x", "run": {"command": "true", **keys}}


def top(**keys):
    """The smallest document with these keys on top."""
    return {**MINIMAL, **keys}


CASES = [
    (None, [r"job.yaml: found nothing \(null\); allowed: a mapping with name, store"]),
    ([1], ["job.yaml: found a list of 1; allowed: a mapping with name"]),
    ({}, ["found no key `name`; allowed: name: 1 to 40", "found no key `run`; allowed: run: a mapping with command"]),
    (top(name="n" * 300), [r"job.yaml: name: found `n{60}…` \(300 characters\); allowed: 1 to 40 lower-case"]),
    (top(name="Hello"), ["name: found `Hello`"]),
    (top(name="-a"), ["name: found `-a`"]),
    (top(name="a\n"), [r"name: found `a\\n`"]),
    (top(name=""), ["name: found empty text"]),
    (top(name=7), [r'name: found 7; allowed: 1 to 40 .* \(quote it: "7"\)']),
    (top(nmae="x"), ["nmae: found an unknown key; allowed: name, store.*; did you mean `name`"]),
    (top(**{"x" * 300: 1}), [r"x{60}…: found an unknown key"]),
    ({**MINIMAL, 5: 1}, ["found the key 5; allowed: text as a key"]),
    ({"name": "x", "run": None}, [r"run: found nothing \(null\); allowed: a mapping with command, script"]),
    ({"name": "x", "run": {}}, ["run: found neither; allowed: exactly one of command and script"]),
    (run(script="run.sh"), ["run: found both command and script; allowed: exactly one of command and script"]),
    (run(command=""), ["run.command: found empty text; allowed: lines for /bin/sh"]),
    (run(command=" \n"), ["run.command: found ` "]),
    (run(command=[]), ["run.command: found an empty list; allowed: lines for /bin/sh"]),
    (run(command=["sleep", 5]), [r'run.command\[1\]: found 5; allowed: text without NUL \(quote it: "5"\)']),
    (run(command={"a": 1}), ["run.command: found a mapping"]),
    (run(env={"A": True}), [r'run.env.A: found true; allowed: text or a number \(quote it: "true"\)']),
    (
        run(env={"A": float("inf")}),
        ["run.env.A: found inf; allowed: text or a number: a finite number, or text in quotes"],
    ),
    (run(env={"A": None}), [r"run.env.A: found nothing \(null\)"]),
    (run(env={"A": ["hush"]}), ["run.env.A: found a list of 1"]),
    (run(env={"A": "hush\0"}), ["run.env.A: found a value that doesn't fit"]),
    (run(env={"A-B": "1"}), ["run.env.A-B: found `A-B`; allowed: names of letters"]),
    (run(env={"FREEPOST_JOB": "1"}), ["run.env.FREEPOST_JOB: found `FREEPOST_JOB`; allowed: .*not FREEPOST_"]),
    (run(user="Root"), ["run.user: found `Root`; allowed: a user name such as job, or null for root"]),
    (run(timeout="2 hours"), ["run.timeout: found `2 hours`; allowed: whole seconds or a duration such as 90s"]),
    (run(timeout=""), ["run.timeout: found empty text"]),
    (run(timeout=0), ["run.timeout: found 0; allowed: .*; 1s to 90d"]),
    (run(timeout="91d"), ["run.timeout: found `91d`; allowed: .*; 1s to 90d"]),
    (
        run(timeout="7d"),
        [r"run.timeout: found a job of 7d11m \(vm.boot_budget .*: 10m \+ 7d \+ 1m\); allowed: at most 7d"],
    ),
    (run(grace=-1), ["run.grace: found -1"]),
    (run(timeout=1.5), ["run.timeout: found 1.5"]),
    (run(timeout=True), ["run.timeout: found true"]),
    (
        top(store="s3://Bucket"),
        ["store: found `s3://Bucket`; allowed: s3://BUCKET or s3://BUCKET/PREFIX, or a mapping"],
    ),
    (top(store="bucket"), ["store: found `bucket`"]),
    (top(store="s3://bucket/a//b"), ["store: found"]),
    (top(store="s3://bucket/../b"), ["store: found"]),
    (top(store="s3://bucket/${filename}"), ["store: found"]),
    (top(store="s3://a..b/"), ["store: found"]),
    (top(store="s3://bucket/" + "p" * 500), ["store: found"]),
    (top(store={}), ["store: found no key `url`"]),
    (top(store={"url": "s3://bucket", "adressing": "path"}), ["store.adressing: .*did you mean `addressing`"]),
    (top(store={"url": "s3://bucket", "method": "psot"}), ["store.method: .*auto, post or put; did you mean `post`"]),
    (top(store={"url": "s3://bucket", "endpoint_url": "http://"}), ["store.endpoint_url: found `http://`"]),
    (top(outputs="out/**"), ["outputs: found `out/\\*\\*`; allowed: a list"]),
    (top(outputs=[""]), [r"outputs\[0\]: found empty text; allowed: a relative glob"]),
    (top(outputs=["../x"]), [r"outputs\[0\]: found `../x`; allowed: a relative glob without \.\."]),
    (top(outputs=["/etc/*", "out/", "a/../b", "."]), [rf"outputs\[{index}\]: found" for index in range(4)]),
    (top(outputs=[{"glob": "a", "bundle": "on"}]), [r"outputs\[0\].bundle: found `on`; allowed: true or false"]),
    (
        top(outputs=[{"globs": "a"}]),
        [r"outputs\[0\]: found no key `glob`", r"outputs\[0\].globs: .*did you mean `glob`"],
    ),
    (top(array=0), ["array: found 0; allowed: a count from 1 to 10000"]),
    (top(array=10_001), ["array: found 10001"]),
    (top(array=[]), ["array: found an empty list"]),
    (top(array="0-10000"), ["array: found more than 10000 indexes"]),
    (top(array="0-999999999,5"), ["array: found more than 10000 indexes"]),
    (top(array="3-0"), ["array: found the range 3-0, which ends before it starts"]),
    (top(array="0-3:0"), ["array: found `0-3:0`"]),
    (top(array="0-3,2"), ["array: found the index 2 a second time"]),
    (top(array=[1, 1]), ["array: found the index 1 a second time"]),
    (top(array=[1, -1, "2"]), [r"array\[1\]: found -1", r"array\[2\]: found `2`"]),
    (top(expires=60), [r"expires: found 1m, which ends before the job may; allowed: at least 1h11m \(vm.boot_budget"]),
    (top(expires="8d"), ["expires: found `8d`"]),
    (top(retries=11), ["retries: found 11; allowed: a whole number from 0 to 10"]),
    (top(retries="3"), ["retries: found `3`"]),
    (top(max_bytes="6GiB"), ["max_bytes: found `6GiB`; allowed: .*1B to 5GiB"]),
    (top(max_bytes="5 gigs"), ["max_bytes: found `5 gigs`"]),
    (top(checkpoint="10m"), ["checkpoint: found no output to take checkpoints of"]),
    (top(checkpoint=1), ["checkpoint: found 1"]),
    (run(files=["nope.txt"]), [r"run.files\[0\]: found `nope.txt`, and there is no such file in"]),
    (run(files=["folder"]), [r"run.files\[0\]: found `folder`, which is a directory"]),
    (
        run(files=["../x"]),
        [r"run.files\[0\]: found `../x`; allowed: a file at or below job.yaml's own folder; for a file"],
    ),
    (run(files=["/etc/passwd"]), [r"run.files\[0\]: found `/etc/passwd`; allowed: a file at or below"]),
    (run(files=["a\0b"]), [r"run.files\[0\]: found `a\\x00b`"]),
    (run(files=[5]), [r"run.files\[0\]: found 5"]),
    (run(files=[{"content": "x"}]), [r"run.files\[0\]: found no key `path`; allowed: path: a relative path"]),
    (run(files=[{"path": "x"}]), [r"run.files\[0\]: found neither; allowed: exactly one of source and content"]),
    (run(files=[{"path": "../x", "content": ""}]), [r"run.files\[0\].path: found `../x`"]),
    (run(files=[{"path": "n" * 256, "content": ""}]), [r"run.files\[0\].path: .*names of at most 255 bytes"]),
    (run(files=[{"path": "x", "content": "\ud800"}]), [r"run.files\[0\].content: found half of a surrogate pair"]),
    (
        run(files=[{"path": "x", "content": "", "mode": "644"}]),
        [r"run.files\[0\].mode: found `644`; allowed: four octal"],
    ),
    (run(files=[{"path": "x", "content": "", "mode": 420}]), [r"run.files\[0\].mode: found 420"]),
    (
        run(files=[{"path": "a/b", "content": ""}, {"path": "./a/b", "content": ""}, {"path": "a", "content": ""}]),
        [
            r"run.files\[1\]: found `a/b`, where run.files\[0\] lands too; allowed: a place of its own",
            r"run.files\[2\]: found `a`, where run.files\[1\] lands too",
        ],
    ),
    (
        {
            "name": "x",
            "run": {"script": "run.sh", "files": ["run.sh"]},
            "inputs": [{"source": "data.csv", "path": "run.sh/x"}],
        },
        [
            r"run.files\[0\]: found `run.sh`, where run.script lands too",
            r"inputs\[0\]: found `run.sh/x`, where run.script lands too",
        ],
    ),
    ({"name": "x", "run": {"script": "data.csv"}}, ["run.script: found `data.csv`, which doesn't start with #!"]),
    ({"name": "x", "run": {"script": "../run.sh"}}, ["run.script: found `../run.sh`; allowed: a file at or below"]),
    ({"name": "x", "run": {"script": "folder"}}, ["run.script: found `folder`, which is a directory"]),
    (top(inputs=["nope"]), [r"inputs\[0\]: found `nope`, and there is no such file"]),
    (top(inputs=["https://host/x"]), [r"inputs\[0\]: found"]),
    (
        top(inputs=[{"source": "https://host/x"}]),
        [r"inputs\[0\].source: found `https://host/x`; allowed: a local file"],
    ),
    (top(inputs=["s3://bucket/"]), [r"inputs\[0\]: found `s3://bucket/`; allowed: s3://BUCKET/KEY"]),
    (top(inputs=["s3://bucket/a/.."]), [r"inputs\[0\]: found `s3://bucket/a/..`"]),
    (
        top(store="s3://mine/p", inputs=["s3://other/key", "s3://mine/key2"]),
        [r"inputs\[0\]: found `s3://other/key`; allowed: an object of the job's own bucket, mine"],
    ),
]


@pytest.mark.parametrize(("document", "expected"), CASES, ids=[f"{number}" for number in range(len(CASES))])
def test_fault(base, document, expected):
    """Each wrong document has exactly the expected faults, each a sentence with its place."""
    found = faults(base, document)
    assert len(found) == len(expected), found
    for pattern in expected:
        assert [each for each in found if re.search(pattern, each)], (pattern, found)
    assert all("\n" not in each and each.startswith("job.yaml") for each in found)


OPTIONS = [
    ({"provider": "ec3"}, ["vm.provider: found `ec3`; allowed: ec2 or local; did you mean `ec2`"]),
    ({"provider": "ec2", "sopt": True}, ["vm.sopt: found an unknown key; allowed: provider, .*; did you mean `spot`"]),
    ({"provider": "ec2", "volume_gb": 0}, ["vm.volume_gb: found 0; allowed: a whole number from 1 to 100"]),
    ({"provider": "local", "spot": True}, ["vm.spot: found an unknown key"]),
    ({"spot": 5}, ["vm.spot: found 5; allowed: true or false"]),
    ({"boot_budget": "25h"}, ["vm.boot_budget: found `25h`"]),
]


@pytest.mark.parametrize(("options", "expected"), OPTIONS)
def test_fault_of_an_option(options, expected):
    """A provider's options are held against its own schema."""
    found = faults(Path(), top(vm=options), PROVIDERS)
    assert len(found) == len(expected)
    assert re.search(expected[0], found[0])


def test_all_at_once(base):
    """Faults of every kind are told together: keys, values, files, times."""
    document = {
        "nam": "x",
        "run": {"script": "nope.sh", "timeout": "x", "files": ["folder"]},
        "outputs": ["../x"],
        "inputs": ["data.csv", {"source": "data.csv"}],
        "retries": 99,
    }
    places = [each.split(": ")[1] for each in faults(base, document)]
    assert places == [
        "found no key `name`; allowed",
        "nam",
        "run.script",
        "run.timeout",
        "run.files[0]",
        "outputs[0]",
        "retries",
        "inputs[1]",
    ]


def test_huge_files(base):
    """Small files over 64 MiB, alone or together, are faults that point to inputs; no byte of them is read."""
    for name, size in (("huge", 64 * 1024**2 + 1), ("half1", 40 * 1024**2), ("half2", 40 * 1024**2)):
        with (base / name).open("wb") as file:
            file.truncate(size)
    (found,) = faults(base, run(files=["huge"]))
    assert "run.files[0]: found a file of 67108865 bytes; allowed: files of at most 64MiB" in found
    assert "inputs" in found
    (found,) = faults(base, run(files=["half1", "half2"]))
    assert "run.files: found 83886080 bytes in all; allowed: at most 64MiB together" in found
    assert len(load.parse(top(inputs=["huge"]), base=base, where="").inputs) == 1


def test_special_files(base):
    """A FIFO is told, not waited for; so are Windows line ends and a name that is too long."""
    os.mkfifo(base / "pipe")
    (base / "dos.sh").write_bytes(b"#!/bin/sh\r\necho\r\n")
    assert "no regular file" in faults(base, run(files=["pipe"]))[0]
    assert "Windows line ends" in faults(base, {"name": "x", "run": {"script": "dos.sh"}})[0]
    assert (
        "can't be read" in faults(base, run(files=["n" * 300]))[0]
        or "no such file" in faults(base, run(files=["n" * 300]))[0]
    )


def test_unreadable_file():
    """A file that may not be read is a fault, not a traceback."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders can't be entered by another user
        path = Path(folder)
        path.chmod(0o755)
        (path / "data.csv").touch(mode=0)
        try:
            if user == 0:
                os.seteuid(65534)  # root reads every file
            found = faults(path, run(files=["data.csv"]))
        finally:
            os.seteuid(user)
    assert "`data.csv`, which can't be read (Permission denied)" in found[0]


def test_no_secret_is_quoted(base):
    """Neither an environment's value nor what a URL carries in its user or query is ever quoted."""
    document = {
        "name": "x",
        "run": {"command": "true", "env": {"A": "hush\0"}},
        "store": {"url": "s3://bucket", "endpoint_url": "https://user:hush@host/"},
        "inputs": ["https://host/x?X-Amz-Signature=hush", "x?x-amz-credential=hush"],
    }
    found = faults(base, document)
    assert len(found) == 4
    assert "hush" not in str(found)
