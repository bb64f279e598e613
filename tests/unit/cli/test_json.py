"""What `--json` makes of standard output: one document or lines of events, in every command, whatever happens."""

import dataclasses
import json
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.core import TyperGroup

from provisioner.cli import app, options
from provisioner.job.spec import JobSpec, RunSpec
from provisioner.jobs import record
from provisioner.jobs.record import JobRecord
from provisioner.output import Event, Kind, Output
from provisioner.plan.layout import JobKeys
from provisioner.providers.guest import images
from provisioner.userdata import validate
from tests.support.service import Service

HELLO = Path(__file__).parents[3] / "examples/hello/job.yaml"
KINDS = {options.DOCUMENT_HELP: Kind.DOCUMENT, options.EVENTS_HELP: Kind.EVENTS}


def kinds(group, above=""):
    """What each command that has --json says of its standard output, by its words."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from kinds(command, f"{above}{name} ")
        for option in command.params:
            if "--json" in option.opts:
                yield above + name, KINDS[option.help]


COMMANDS = dict(kinds(typer.main.get_group(app.app)))
ELSEWHERE = ["--store", "s3://{bucket}/p", "--endpoint-url", "{endpoint}"]
# What each is called with, besides --json, so that it does something; {names} are what the fixture `place` makes.
WORK = {
    "launch": ["{hello}", "--local"],
    "status": ["done"],
    "watch": ["done"],
    "collect": ["done", "{folder}/results"],
    "retry": ["failed"],
    "jobs": ELSEWHERE,
    "extend": ["running"],
    "doctor": ["{hello}", "--local"],
    "gc": [],
    "image build": [],
    "image import": ["{hello}"],
    "image list": [],
    "url get": ["s3://{bucket}/p/", "--local"],
    "url put": ["s3://{bucket}/p/x", "--local", "--no-overwrite"],
    "render": ["{hello}", "--audit", "--provider", "qemu"],
    "token": ["s3://{bucket}/p/"],
    "revoke": ["done", "--undo"],
    "store start": [],
    "store status": [],
}
MORE = [  # other ways through them
    ("launch", ["{hello}", "--local", "--dry-run"]),
    ("launch", ["{hello}", "--local", "--wait"]),
    ("launch", ["{hello}", "--local", "--collect", "{folder}/r"]),
    ("render", ["{hello}", "--explain", "--provider", "qemu"]),
    ("render", ["{hello}", "--audit", "--stage", "--local", "--set", "store=s3://{bucket}/p"]),
    ("render", ["{hello}", "--seed", "{folder}/seed", "--provider", "qemu"]),
    ("url get", ["s3://{bucket}/p/", "--local", "--html", "{folder}/page.html"]),
    ("token", ["--show", "{folder}/token"]),
    ("token", ["--revoke", "0123456789abcdef"]),
]
WRONG = {  # the same, so that it fails after its words were understood, with the error's class
    "launch": (["{folder}/none.yaml", "--local"], "BadInput"),
    "status": (["nobodys"], "NotFound"),
    "watch": (["failed"], "JobFailed"),
    "collect": (["waiting", "{folder}/results"], "Incomplete"),
    "retry": (["done"], "BadInput"),
    "jobs": (["--endpoint-url", "http://127.0.0.1:9"], "BadInput"),
    "extend": (["done"], "BadInput"),
    "doctor": ([*ELSEWHERE, "--provider", "local", "--set", "store.profile=nobodys"], ""),
    "gc": (["--provider", "nowhere"], ""),
    "image build": (["--suite", "nowhere"], "BadInput"),
    "image import": (["{folder}/none.qcow2"], "BadInput"),
    "image list": (["more"], "BadInput"),
    "url get": (["s3://{bucket}/none", "--local"], "NotFound"),
    "url put": (["s3://{bucket}/x", "--local", "--expires", "never"], "BadInput"),
    "render": (["{hello}", "--local"], "BadInput"),
    "token": (["nobodys"], "NotFound"),
    "revoke": (["nobodys"], "NotFound"),
    "serve": (["--host", "0.0.0.0"], "BadInput"),
    "store start": (["A"], "BadInput"),
    "store status": (["more"], "BadInput"),
}


@pytest.fixture
def place(provision, opened, store, bucket, state_folder, tmp_path, monkeypatch):
    """Give the command, and what `WORK` and `WRONG` name: jobs of each state in the embedded store, and files.

    There is no schema of cloud-init, and every document is given between two events.
    """
    now = datetime.now(timezone.utc).replace(microsecond=0)
    later = now + timedelta(hours=1)
    spec = JobSpec("j", RunSpec(("true",)), renew=3600)
    for job, events in {
        "done": ["started", "succeeded"],
        "failed": ["started", "failed"],
        "running": ["started"],
        "waiting": [],
    }.items():
        keys = JobKeys("p", job)
        each = spec if job == "running" else dataclasses.replace(spec, renew=None)
        opened.put(keys.record, record.dump(JobRecord(job, each, "local", now, later, later, launched=True)))
        for event in events:
            opened.put(keys.event("0", 1, event), b"{}")
        at = {"bucket": bucket, "prefix": "p"}
        (state_folder / "jobs").mkdir(exist_ok=True)
        (state_folder / "jobs" / f"{job}.json").write_text(json.dumps({"store": at, "embedded": True}))
    opened.put(JobKeys("p", "done").manifest("0", 1), b'{"version": 1, "entries": [], "bundles": [], "more": []}')
    image = images.Image("bookworm", tmp_path / "disk.raw", "raw")
    monkeypatch.setattr(validate, "_places", lambda: iter(()))
    plain = Output.result

    def between(output, text, data):
        output.event(Event("forced", "said before", {}))
        plain(output, text, data)
        output.event(Event("forced", "said after", {}))

    monkeypatch.setattr(Output, "result", between)
    names = {"hello": HELLO, "bucket": bucket, "folder": tmp_path, "endpoint": store.endpoint_url}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.secret_key)
    (tmp_path / "token").write_text(provision("token", f"s3://{bucket}/p/").out)

    def run(command, words):
        return provision(*command.split(), *(word.format(**names) for word in words), "--json")

    yield SimpleNamespace(run=run, image=image)
    for job in ("done", "failed", "running", "waiting"):
        (state_folder / "jobs" / f"{job}.json").unlink()


def held(kind, out):
    """Hold standard output to its kind; give its documents, one for a DOCUMENT."""
    if kind is Kind.DOCUMENT:
        return [json.loads(out)]
    lines = [json.loads(line) for line in out.splitlines()]
    assert all(isinstance(line, dict) and isinstance(line["event"], str) for line in lines), out
    return lines


def test_every_command_is_tried():
    """No command with --json is without its ways to succeed and to fail here."""
    assert set(WORK) | {"serve"} == set(COMMANDS)
    assert set(WRONG) == set(COMMANDS)


@pytest.mark.parametrize(
    ("command", "words"), [*WORK.items(), *MORE], ids=lambda part: part if isinstance(part, str) else " ".join(part)
)
def test_what_it_prints_is_of_one_kind(place, monkeypatch, command, words):
    """A document stands alone on standard output, with events as text on standard error; or all of it is events."""
    monkeypatch.setattr(images, "build", lambda *_, **__: place.image)
    monkeypatch.setattr(images, "import_qcow2", lambda *_: place.image)
    done = place.run(command, words)
    assert done.code == 0, done.err
    kind = Kind.DOCUMENT if "--dry-run" in words else COMMANDS[command]
    assert held(kind, done.out)
    if kind is Kind.DOCUMENT:
        assert "said before" in done.err
        assert "said after" in done.err
    if "qemu" in words:
        assert "was not validated" in done.err


@pytest.mark.parametrize("command", COMMANDS)
def test_an_error_is_one_object(place, command):
    """What goes wrong is told in the same kind, once: a document that came first is not followed by another."""
    words, error = WRONG[command]
    done = place.run(command, words)
    assert done.code != 0
    said = held(COMMANDS[command], done.out)
    assert [each["error"] for each in said if "error" in each] == ([error] if error else [])
    assert "provision: " in done.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_flag_is_told_as_json(provision, command):
    """Whoever reads standard output as JSON reads there, too, that the command line was wrong."""
    done = provision(*command.split(), "--json", "--frobnicate")
    assert done.code == 2
    (said,) = held(COMMANDS[command], done.out)
    assert (said["error"], said["exit_code"]) == ("BadInput", 2)
    assert "--frobnicate" in said["message"]


def test_what_stopped_doctor_is_in_its_document(place):
    """Checks that could not be made have a line, which says why, among those that were made."""
    found = json.loads(place.run("doctor", WRONG["doctor"][0]).out)
    assert (found[-1]["name"], found[-1]["good"]) == ("the rest", False)
    assert "nobodys" in found[-1]["text"]


@pytest.mark.parametrize("kind", Kind)
def test_names_cannot_move_the_cursor(capsys, kind):
    """A name that a VM sent is shown with its control characters written out, to people on either stream."""
    output = Output(sys.stdout, sys.stderr, kind)
    output.event(Event("failed", "a\x1b[2Jb\tc\rd\ne", {"path": "\x1b"}))
    output.summary(Event("collect", "\x9bm"))
    out, err = capsys.readouterr()
    assert not {"\x1b", "\r", "\x9b"} & set(out + err)
    if kind is not Kind.EVENTS:
        assert err.startswith("a\\x1b[2Jb\tc\\x0dd\ne\n")


def test_the_service_logs_events(store, bucket, tmp_path):
    """`serve` prints nothing but events, from its first line to the end."""
    service = Service(store, f"s3://{bucket}/p", tmp_path / "state", tmp_path)
    service.kill()
    assert held(COMMANDS["serve"], service.log.read_text())


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["text", "json"])
def test_a_wrong_argument_is_named_by_its_option(provision, words):
    """As it was typed, to people and to programs."""
    done = provision("url", "put", "s3://bucket/key", "--local", "--content-type", "é", *words)
    said = "--content-type: invalid value 'é'"
    assert (done.code, done.err.splitlines()[0]) == (2, f"provision: {said}")
    assert not words or json.loads(done.out)["message"] == said
