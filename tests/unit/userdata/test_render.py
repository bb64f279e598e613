"""User-data: the same plan gives the same bytes, nothing in it can break out, and a golden file shows all of it."""

import dataclasses
import json
import os
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import BadInput
from provisioner.job.load import load
from provisioner.job.spec import FileSpec, JobSpec, OutputSpec, RunSpec
from provisioner.packing import agent_archive
from provisioner.plan import grants
from provisioner.plan.plan import StagedInput
from provisioner.plan.request import LaunchRequest, make_plan
from provisioner.s3.signing import Bucket, Credentials
from provisioner.userdata import parse, render

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests/golden"
NOW = datetime(2026, 11, 23, 20, 0, 0, tzinfo=timezone.utc)
CREDENTIALS = Credentials("AKIDEXAMPLE", "secret")
BUCKET = Bucket("results", "eu-central-1", "https://results.s3.eu-central-1.amazonaws.com/")


def planned(spec, **more):
    """A plan with nothing left to chance."""
    return make_plan(LaunchRequest(
        spec, job="hello-20261123-200000-abcd", bucket=BUCKET, prefix="p", provider="ec2", user_data_limit=16_384,
        now=NOW, **more,
    ))  # fmt: skip


def rendered(spec):
    """The user-data of a spec's last task."""
    plan = planned(spec)
    grant = grants.GrantSigner(plan, CREDENTIALS, NOW).grant(plan.tasks[-1])
    return render.render(plan, plan.tasks[-1], grant)


def readable(data):
    """Everything in user-data as text: the document, and each file decoded; of the agent only where it lies."""
    config = parse.unpack(data.data)
    document = dict(config.document)
    document["write_files"] = [{k: v for k, v in item.items() if k != "content"} for item in document["write_files"]]
    parts = [yaml.safe_dump(document, sort_keys=False, width=1000)]
    for item in config.files:
        parts.append(f"--- {item.path} {item.mode:04o}\n")
        if item.path == render.AGENT_PATH:
            parts.append("(the agent)\n")
        elif item.path.endswith(".json"):
            parts.append(json.dumps(json.loads(item.content), indent=1) + "\n")
        else:
            parts.append(item.content.decode())
    return "".join(parts)


@pytest.mark.parametrize("example", ["hello", "pi"])
def test_golden(example):
    """What the VM of each example gets, all layers taken apart. FREEPOST_UPDATE_GOLDEN=1 writes the file anew."""
    text = readable(rendered(load(ROOT / "examples" / example / "job.yaml")))
    path = GOLDEN / f"user-data-{example}.txt"
    if os.environ.get("FREEPOST_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_the_same_plan_gives_the_same_bytes():
    """Nothing depends on time, order or chance."""
    spec = load(ROOT / "examples/hello/job.yaml")
    first = rendered(spec).data
    agent_archive.packed.cache_clear()
    assert rendered(spec).data == first


def test_gzip_has_no_time_and_no_system():
    """The outer gzip's header is the same everywhere (RFC 1952: mtime 0, OS 255)."""
    assert render.gzipped(b"x" * 100)[:10] == b"\x1f\x8b\x08\0\0\0\0\0\x02\xff"


@pytest.mark.parametrize("name", ["a: b", "#x", "'", '"', "é", "{{ x }}", "a\\b", "- y", "%s"])
def test_values_cannot_change_the_document(name):
    """Names and contents of an operator's files reach YAML whole, whatever they hold."""
    content = b"#!/bin/sh\n{{ not jinja }} ${#array[@]}\n\xff\0"
    text = b"#!/bin/sh\n{{ not jinja }} {# #} ${#array[@]}\t'\"\\ : - \n  %s\n\n"
    files = FileSpec(name, content), FileSpec("text", text), FileSpec("empty", b""), FileSpec("cr", b"a\r\n\x7f")
    run = RunSpec(command=("true", name), files=files, env={"A": name})
    config = parse.unpack(rendered(JobSpec("x", run, outputs=(OutputSpec(name),))).data)
    assert [config.file(f"/run/freepost/files/{item.path}") for item in files] == [item.content for item in files]
    task = json.loads(config.file("/run/freepost/task.json"))
    assert (task["command"][1], task["env"]["A"], task["outputs"][0]["glob"]) == (name, name, name)
    assert list(config.document) == ["bootcmd", "users", "write_files", "runcmd"]


TEXT = st.text(" \t\n\r'\"\\#:-|a~\x7fé", max_size=12)


@given(TEXT)
def test_any_text_comes_back_as_it_was(text):
    """Quoted, as a block or encoded: YAML reads each file whole, and nothing of it as a key of its own."""
    document = f"#cloud-config\nwrite_files:\n- path: x\n  {render.yaml_content(text.encode())}\n  after: y\n"
    config = parse.unpack(document.encode())
    assert config.file("x") == text.encode()
    assert set(config.document["write_files"][0]) <= {"path", "content", "encoding", "after"}


def test_the_secret_files_come_first_and_are_closed():
    """The grant and the task are 0400, written before anything else, into a folder that bootcmd closed before."""
    config = parse.unpack(rendered(load(ROOT / "examples/hello/job.yaml")).data)
    assert [(item.path, item.mode) for item in config.files][:2] == [
        ("/run/freepost/grant.json", 0o400),
        ("/run/freepost/task.json", 0o400),
    ]
    assert "systemctl poweroff" in config.document["bootcmd"][0]
    assert "install -d -m 0700 /var/lib/freepost" in config.document["bootcmd"][1]


@pytest.mark.parametrize(
    ("passed", "again", "seconds"),
    [
        (0, False, 960),
        (300, False, 660),
        (900, False, 60),
        (901, False, 960),
        (10_800, False, 960),
        (-86_400, False, 960),
        (300, True, 660),
        (10_800, True, 60),
        (-86_400, True, 960),
    ],
)
def test_the_dead_man_timer(passed, again, seconds, tmp_path):
    """The timer counts from the launch, is never over the whole budget, and all of it where a first boot is too late.

    A clock that is hours ahead at a first boot would leave a minute, and the job with it.
    """
    plan = planned(load(ROOT / "examples/hello/job.yaml"))
    folder = tmp_path / "freepost"
    if again:
        folder.mkdir()
    for name, body in {"date": f"echo {int(NOW.timestamp()) + passed}", "systemd-run": 'echo "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    line = render.deadman(plan)
    assert line.count("/var/lib/freepost") == 1  # the folder that the next line makes
    line = line.replace("/var/lib/freepost", str(folder))
    done = subprocess.run(
        ["/bin/sh", "-c", line], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert f"--on-active={seconds} " in done.stdout
    assert done.stdout.endswith("systemctl poweroff\n")


@pytest.mark.parametrize(("example", "renew"), [("hello", None), ("hello", 3600), ("pi", None)])
def test_the_unit_ends_nothing_before_the_dead_man_timer(example, renew):
    """The agent may upload until that timer powers the VM off: systemd's limit, from a later start, is no tighter."""
    spec = dataclasses.replace(load(ROOT / "examples" / example / "job.yaml"), renew=renew)
    unit = parse.unpack(rendered(spec).data).file(render.UNIT_PATH).decode()
    assert f"\nRuntimeMaxSec={spec.deadline}\n" in unit
    short = dataclasses.replace(spec, vm=dataclasses.replace(spec.vm, boot_budget=1))
    unit = parse.unpack(rendered(short).data).file(render.UNIT_PATH).decode()
    assert f"\nRuntimeMaxSec={spec.run.timeout + 2 * spec.run.grace + 60}\n" in unit


SECURE = planned(JobSpec("x", RunSpec(("true",))))
PLAIN = dataclasses.replace(SECURE, bucket=dataclasses.replace(BUCKET, url="http://127.0.0.1:9000/results/"))


def parts(plan, agent):
    """The modules in the user-data besides the core, and whether more follow."""
    return render.agent_parts(dataclasses.replace(plan, agent=agent), plan.tasks[0])


def test_what_a_vm_can_not_do_without_is_in_the_user_data():
    """Where the rest comes from the bucket: what reaches the store, groups, and fetches inputs; no text decides."""
    item = StagedInput("a", "k", "0644", 1, None)
    mentions = planned(JobSpec("x", RunSpec(("curl", "-A", "user-agent/1.0", "agent push --bundle"))))
    assert parts(PLAIN, "bucket") == (set(), True)
    assert parts(SECURE, "bucket") == parts(mentions, "bucket") == ({"tls"}, True)
    assert parts(dataclasses.replace(PLAIN, inputs=(item,)), "bucket") == ({"pull"}, True)
    for job in (PLAIN, SECURE, mentions):
        assert parts(job, "inline") == (agent_archive.whole(), False)


def test_a_rendering_has_what_the_job_asks_for_and_what_it_may_call():
    """Without a bucket to put the rest into: first with `agent push` for the job's user, then without."""
    bundles = planned(JobSpec("x", RunSpec(("true",)), outputs=(OutputSpec("*", bundle=True),)))
    root = planned(JobSpec("x", RunSpec(("true",), user=None)))
    assert parts(PLAIN, "inline-minimal") == (set(), False)
    assert parts(bundles, "inline-minimal") == ({"tls", "bundle"}, False)
    assert {"commands", "push_server", "push_client"} <= parts(PLAIN, "inline-reduced")[0]
    assert {"commands", "push_command"} <= parts(root, "inline-reduced")[0]
    assert "push_server" not in parts(root, "inline-reduced")[0]


def test_the_ledger_names_every_section():
    """Each section has its size and its cost; the costs add up to the whole."""
    data = rendered(load(ROOT / "examples/hello/job.yaml"))
    ledger = data.ledger()
    assert [line.section for line in ledger] == [
        "grant", "task", "file hello.sh", "agent", "launcher", "unit", "cloud-config",
    ]  # fmt: skip
    assert sum(line.cost for line in ledger) == len(data.data)


def test_a_plan_moves_the_agent_first_then_its_largest_files():
    """What comes next is the agent's rest, then the costliest file or the grant, and at last nothing."""
    files = tuple(FileSpec(f"f{size}", os.urandom(size)) for size in (100, 9_000, 3_000))
    plan = planned(JobSpec("x", RunSpec(("true",), files=files)))
    steps = []
    while True:
        grant = grants.GrantSigner(plan, CREDENTIALS, NOW).grant(plan.tasks[0])
        found = render.smaller_plans(
            plan, render.render(plan, plan.tasks[0], grant, b"{}" * plan.remote_grant), staged=True
        )
        if not found:
            break
        steps.append([(each.agent, each.remote_grant, [item.path for item in each.offloaded]) for each in found])
        plan = found[-1]
    assert steps == [
        [("bucket", False, [])],
        [("bucket", True, []), ("bucket", False, ["f9000"])],
        [("bucket", True, ["f9000"]), ("bucket", False, ["f9000", "f3000"])],
        [("bucket", True, ["f9000", "f3000"]), ("bucket", False, ["f9000", "f3000", "f100"])],
        [("bucket", True, ["f9000", "f3000", "f100"])],
        [("bucket-minimal", True, ["f9000", "f3000", "f100"])],
    ]
    assert len(grant.inputs) == 3
    assert all(item["sha256"] for item in grant.inputs)


@pytest.mark.parametrize(("agent", "staged", "expected"), [("auto", True, "bucket"), ("auto", False, "inline-reduced")])
def test_what_the_agent_does_without(agent, staged, expected):
    """By itself the rest goes to the bucket, or stays at home where nothing will be put there."""
    plan = planned(JobSpec("x", RunSpec(("true",), agent=agent)))
    assert [each.agent for each in render.smaller_plans(plan, rendered(plan.spec), staged=staged)] == [expected]


def test_a_choice_by_hand_is_kept():
    """run.agent: inline or bucket holds, whatever room there is."""
    inline, bucket = (planned(JobSpec("x", RunSpec(("true",), agent=agent))) for agent in ("inline", "bucket"))
    assert bucket.agent == "bucket"
    assert all(each.agent == "inline" for each in render.smaller_plans(inline, rendered(inline.spec), staged=True))


@pytest.mark.parametrize(
    "data", [b"", b"#!/bin/sh\n", b"\x1f\x8bbroken", b"#cloud-config\n- a list\n", b"#cloud-config\n[\n"]
)
def test_other_documents_are_refused(data):
    """What isn't a cloud-config of ours is refused with a sentence that doesn't quote it."""
    with pytest.raises(BadInput):
        parse.unpack(data)


def test_a_root_job_gets_no_user():
    """A job that asks for root has no user made for it."""
    spec = load(ROOT / "examples/hello/job.yaml")
    as_root = dataclasses.replace(spec, run=dataclasses.replace(spec.run, user=None))
    config = parse.unpack(rendered(as_root).data)
    assert "users" not in config.document
    assert json.loads(config.file("/run/freepost/task.json"))["user"] is None
