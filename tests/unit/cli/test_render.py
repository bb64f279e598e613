"""`provision render`: Terraform's external data source protocol, and the audit of what is secret."""

import base64
import io
import json
import os
import re
import sys
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest

from provisioner.providers.base import Order
from provisioner.providers.local import LocalProvider
from provisioner.userdata import parse

HELLO = "examples/hello/job.yaml"


@pytest.fixture
def terraform(provision, monkeypatch):
    """Run `render --format terraform` with a query on standard input."""

    def run(query, *words):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(query)))
        return provision("render", HELLO, "--local", "--format", "terraform", *words)

    return run


def test_terraform_gets_a_flat_map_of_strings(terraform):
    """The answer is one JSON object of strings; the query changes the job as --set does."""
    done = terraform(b'{"run.env.GREETING": "from = terraform", "task": "0"}')
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert all(isinstance(value, str) for value in answer.values())
    data = base64.b64decode(answer["user_data_base64"])
    assert "user_data" not in answer, "it is larger than EC2 takes"
    task = json.loads(parse.unpack(data).file("/run/freepost/task.json"))
    assert task["env"]["GREETING"] == "from = terraform"
    assert (answer["task"], answer["attempt"]) == ("0", "1")
    assert answer["deadline"] < answer["expires"]


def test_terraform_gets_text_where_it_is_told_to(terraform):
    """A resource that takes no gzip gets the plain document, as text and as base64."""
    answer = json.loads(terraform(b"{}", "--raw").out)
    assert answer["user_data"].startswith("#cloud-config\n")
    assert base64.b64decode(answer["user_data_base64"]).decode() == answer["user_data"]


def test_terraforms_answer_stands_alone(terraform):
    """Terraform reads all of standard output as one object, so --json and its event lines are refused."""
    done = terraform(b"{}", "--json", "--stage")
    assert done.code == 2
    assert "leave out --json" in done.out
    assert "user_data" not in done.out


def test_what_does_not_fit_is_refused_with_the_ledger(provision, tmp_path):
    """User-data that nothing can make fit is refused, with what each part of it costs."""
    job = tmp_path / "job.yaml"
    job.write_text(f"name: large\nrun: {{command: 'true', env: {{TABLE: {os.urandom(12_000).hex()}}}}}\n")
    done = provision("render", job, "--local")
    assert (done.code, done.out) == (2, "")
    assert "takes 16384" in done.err
    for section in ("grant", "task", "agent", "unit", "cloud-config"):
        assert re.search(rf"^ *{section}: [0-9]+ bytes, -?[0-9]+ compressed$", done.err, re.MULTILINE), section
    task = re.search(r"task: [0-9]+ bytes, ([0-9]+) compressed", done.err)[1]
    assert int(task) > 12_000


def test_raw_user_data_is_held_to_the_limit_too(provision, tmp_path, monkeypatch):
    """What isn't gzipped is counted as it is: a file goes by the bucket, and what still doesn't fit is refused."""
    with monkeypatch.context() as tight:
        tight.setattr(LocalProvider, "raw_limit", LocalProvider.user_data_limit)  # as EC2, which has no other one
        done = provision("render", HELLO, "--local", "--raw")
    assert (done.code, done.out) == (2, "")
    assert "bytes as it is; local takes 16384" in done.err
    assert "leave out --raw" in done.err
    assert "agent: " in done.err
    (tmp_path / "table").write_text("a line\n" * 5000)  # which gzip makes small
    (tmp_path / "job.yaml").write_text("name: t\nrun: {command: sort table, files: [table]}\n")
    done = provision("render", tmp_path / "job.yaml", "--local", "--raw")
    assert done.code == 0, done.err
    assert len(done.out) <= 32_768
    assert "a line" not in done.out
    assert "the VM will fetch table from the bucket" in done.err
    done = provision("render", tmp_path / "job.yaml", "--local")
    assert "fetch table" not in done.err
    done = provision("render", HELLO, "--local", "--raw", "--explain")
    assert "not gzipped" in done.out


@pytest.mark.parametrize(
    "query", [b"", b"[]", b'{"task": 0}', b'{"x": null}', b'{"task": "7"}', b'{"no.key": "x"}', b"\xff"]
)
def test_terraform_is_told_on_standard_error(terraform, query):
    """A query that can't be served gives a sentence on standard error, nothing on standard output, and exit code 2."""
    done = terraform(query)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("provision: ")


def test_one_output_at_a_time(provision, tmp_path):
    """Flags that each want the output don't go together."""
    assert provision("render", HELLO, "--local", "--explain", "--audit").code == 2
    assert provision("render", HELLO, "--local", "--audit", "--seed", tmp_path / "s").code == 2


def audited(provision, *words):
    """The audit of hello as JSON, by the secret's name."""
    done = provision("render", HELLO, "--audit", "--json", *words)
    assert done.code == 0, done.err
    return {secret["name"]: secret for secret in json.loads(done.out)}, done.out


def test_the_audit_names_every_secret_and_shows_none(provision):
    """Both policies, with what they allow and until when, and what the job carries; no signature, no value."""
    found, text = audited(provision, "--local")
    assert {"POST policy: outputs", "POST policy: status"} < set(found)
    assert "/out/0/1/" in found["POST policy: outputs"]["allows"]
    assert found["POST policy: outputs"]["expires"].startswith("until 20")
    assert any("run.env.GREETING" in name for name in found)
    assert "Hello from a VM" not in text
    assert "signature" not in text.lower()


def test_the_audit_of_a_guest(provision):
    """A machine's root can read the grant where it lies and where cloud-init keeps the document."""
    found, _ = audited(provision, "--provider", "qemu")
    places = {place["where"]: place for place in found["POST policy: outputs"]["places"]}
    assert places["/run/freepost/grant.json"]["mode"] == "0400"
    assert places["/var/lib/cloud/instance/user-data.txt"]["mode"] == "0600"
    assert places["/var/lib/cloud/instance/obj.pkl"]["readers"] == "uid 0 in the guest"
    as_root, _ = audited(provision, "--provider", "qemu", "--set", "run.user=null")
    assert "the job, which runs as root" in as_root["POST policy: outputs"]["places"][0]["readers"]


def test_the_audit_of_what_the_operator_wrote(provision, tmp_path):
    """Command, environment and files are listed apart: each where the guest shows it, and a spilled file's object."""
    (tmp_path / "key").write_text("k")
    (tmp_path / "table").write_bytes(os.urandom(20_000))
    job = tmp_path / "job.yaml"
    job.write_text('name: w\nrun: {command: sort table, files: [{source: key, mode: "0600"}, table], env: {A: b}}\n')

    def places(*words):
        done = provision("render", job, "--audit", "--json", *words)
        assert done.code == 0, done.err
        found = {secret["name"]: secret["places"] for secret in json.loads(done.out.splitlines()[-1])}
        return {name: {place["where"]: place for place in where} for name, where in found.items()}

    found = places()
    assert found["run.command"]["the process list (ps), while the job runs"]["readers"] == "every uid in the guest"
    assert found["run.env.A"]["the environment of the job's processes"]["readers"] == "uid of job, root"
    assert found["file key"]["/run/freepost/files/key"]["readers"] == "uid 0 in the guest"
    assert found["file key"]["/srv/job/key"]["readers"] == "uid of job, root"
    assert found["file table"]["/srv/job/table"]["readers"] == "every uid in the guest"
    (spilled,) = (place for where, place in found["file table"].items() if "/.files/" in where)
    assert "presigned GET" in spilled["readers"]
    assert "/var/lib/cloud/instance/user-data.txt" in found["file key"]
    assert "/var/lib/cloud/instance/user-data.txt" not in found["file table"], "it is not in the user-data"
    assert "/srv/job/key" not in places("--local")["file key"]
    folder = "the machine's folder in Freepost's state folder"
    words = ["--provider", "machine", "--set", "vm.keep_disk=true"]
    assert "keep_disk" in places(*words)["run.command"][folder]["until"]
    assert "keep_disk" not in places(*words[:2])["run.command"][folder]["until"]


def test_what_render_leaves_out_is_told(provision, tmp_path):
    """Inputs would be missing from the bucket: render says which, since it uploads nothing."""
    (tmp_path / "data.txt").write_text("x")
    (tmp_path / "job.yaml").write_text("name: i\nrun: {command: 'true'}\ninputs: [data.txt]\n")
    done = provision("render", tmp_path / "job.yaml", "--local", "--explain")
    assert done.code == 0
    assert "data.txt" in done.err
    assert "presigned GET: data.txt" in provision("render", tmp_path / "job.yaml", "--local", "--audit").out


def test_a_staged_job_is_watched_and_collected(provision, tmp_path, bucket):
    """With --stage, whoever starts the VM, the job is found, waited for and collected, its inputs are there."""
    (tmp_path / "data.txt").write_text("x")
    job = tmp_path / "job.yaml"
    job.write_text(
        "name: i\nrun: {command: cp data.txt out}\ninputs: [data.txt]\noutputs: [out]\narray: 3\nretries: 2\n"
    )
    words = ["--local", "--set", f"store=s3://{bucket}/p", "--task", "2", "--raw", "--stage"]
    done = provision("render", job, *words)
    assert done.code == 0, done.err
    name = re.search("job (i-.*)", done.err)[1]
    status = json.loads(provision("status", name, "--json").out)["tasks"]
    assert [(each["task"], each["status"]) for each in status] == [("2", "launched")]
    order = Order(name, ("2",), 1, "elsewhere", datetime.now(timezone.utc), done.out.encode(), {})
    provider = LocalProvider(tmp_path / "vms")
    provider.launch(order)
    assert provision("wait", name).code == 0
    assert provision("collect", name, tmp_path / "r").code == 0
    assert (tmp_path / "r/2/out").read_text() == "x"


def test_nobody_starts_the_vm_of_a_staged_job_again(provision, tmp_path):
    """Where no provider is named, retry says that VMs are started elsewhere, and announces no attempt."""
    (tmp_path / "job.yaml").write_text("name: i\nrun: {command: 'false'}\nretries: 2\n")
    done = provision("render", tmp_path / "job.yaml", "--stage", "--raw")
    name = re.search("job (i-.*)", done.err)[1]
    LocalProvider(tmp_path / "vms").launch(
        Order(name, ("0",), 1, "elsewhere", datetime.now(timezone.utc), done.out.encode(), {})
    )
    assert provision("wait", name).code == 1
    done = provision("retry", name)
    assert done.code == 2
    assert "started elsewhere" in done.err
    assert json.loads(provision("status", name, "--json").out)["tasks"][0]["attempt"] == 1
