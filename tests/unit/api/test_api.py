"""The library: its example, its names, and that it does what the commands do."""

import doctest
import inspect
import json
import re
import subprocess
import sys
from datetime import timedelta

import pytest
import requests

import freepost
from agent import __version__
from provisioner import api
from provisioner.clock import utc_now
from provisioner.plan.layout import JobKeys

FAILS = {"name": "fails", "run": {"command": "echo oh no; exit 3"}}


@pytest.fixture
def operator(provision, bucket):
    """The session's own store and state folder; the spec's store is the test's bucket."""
    return {"store": f"s3://{bucket}/p"}


def test_the_example_of_the_documentation_runs(provision, tmp_path, monkeypatch):
    """The module's docstring is a session that runs as it stands."""
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testmod(api)
    assert outcome.attempted >= 7
    assert outcome.failed == 0
    assert (tmp_path / "results/out/it").read_text() == "hi\n"


def test_the_package_names_what_the_api_has():
    """`freepost` has each name of provisioner.api's `__all__`, the version too, and no other."""
    assert freepost.__all__ == api.__all__ == dir(freepost)
    assert all(getattr(freepost, name) is getattr(api, name) for name in api.__all__)
    assert freepost.__version__ == __version__
    with pytest.raises(AttributeError, match="has no attribute 'unheard'"):
        _ = freepost.unheard


def test_importing_it_loads_nothing():
    """`import freepost` loads no module of ours, and the API none that speaks to a store or launches."""
    code = "import sys, freepost; first = set(sys.modules); freepost.launch; print(*first); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, then = (set(line.split()) for line in done.stdout.splitlines())
    assert not [name for name in first if name.startswith(("provisioner", "agent"))]
    assert not {"botocore", "jinja2", "yaml", "requests", "typer", "provisioner.jobs.launch"} & then


def test_everything_public_is_typed_and_documented():
    """Each function, and each method of Job, has annotations for all it takes and gives, and a docstring."""
    functions = [getattr(api, name) for name in api.__all__ if inspect.isfunction(getattr(api, name))]
    functions += [each for name, each in vars(api.Job).items() if inspect.isfunction(each) and not name.startswith("_")]
    assert len(functions) > 15
    for function in functions:
        taken = set(inspect.signature(function).parameters) - {"self"}
        assert taken | {"return"} == set(function.__annotations__), function
        assert (function.__doc__ or "").rstrip().endswith("."), function


def test_what_is_returned_is_exported():
    """Whoever annotates what these functions take and give finds each type of ours in `freepost`."""
    members = {**vars(api), **vars(api.Job)}
    public = [each for name, each in members.items() if inspect.isfunction(each) and not name.startswith("_")]
    signatures = " ".join(str(each.__annotations__) for each in public)
    named = set(re.findall(r"\b[A-Z]\w+\b", signatures)) - {"Sequence", "Iterator", "None", "PathLike"}
    assert named == set(freepost.__all__) & named
    assert {"JobSource", "Link", "Plan", "Rendering", "Report", "StoreLocation", "TaskReport"} <= named


def test_a_job_that_fails(operator, tmp_path):
    """Waiting raises JobFailed; its log, its exit code, a retry and its end are had as by the commands."""
    told = []
    job = freepost.launch({**FAILS, **operator}, local=True, report=told.append, overrides=["retries=0"])
    assert [event.name for event in told] == ["notice", "launched", "job"]
    with pytest.raises(freepost.JobFailed, match=r"1 of 1 tasks of fails-.* did not succeed: 0 \(failed\)"):
        job.wait()
    assert b"oh no" in b"".join(job.logs())
    (task,) = job.status()
    assert (task.event, task.attempt, task.details["exit_code"], task.is_final) == ("failed", 1, 3, True)
    assert job.retry() == ["0"]
    assert [task.attempt for task in job.wait(check=False)] == [2]
    with pytest.raises(freepost.Incomplete, match="1 of 1 tasks have not succeeded"):
        job.collect(tmp_path / "got")
    assert job.terminate() == 2
    assert job.remove() > 0
    with pytest.raises(freepost.NotFound):
        job.status()


def test_a_job_is_found_by_id_by_url_and_in_its_store(operator, store, bucket, monkeypatch):
    """The id is enough on this machine; the URL, or the store, on any that has credentials."""
    job = freepost.launch({**FAILS, **operator}, local=True)
    assert job.url == f"s3://{bucket}/p/{job.id}"
    assert repr(job) == f"<Job {job.url}>"
    assert freepost.job(job.id).id == job.id
    job.wait(check=False)
    with pytest.raises(freepost.NotFound, match="knows no job"):
        freepost.job("nowhere")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", store.region)
    where = {"store": f"s3://{bucket}/p", "endpoint_url": store.endpoint_url}
    assert freepost.jobs(**where) == [job.id]
    assert freepost.job(job.id, **where).url == job.url
    with pytest.raises(freepost.BadInput, match="is not s3://BUCKET"):
        freepost.jobs(store="elsewhere")
    job.remove()
    with pytest.raises(freepost.NotFound, match="there is no job"):
        freepost.job(job.id, **where)


def test_what_a_job_does_not_have_is_said(operator):
    """Grants that name no mailbox can't be renewed, and a job that wasn't revoked is said to be so."""
    told = []
    job = freepost.launch({**FAILS, **operator}, local=True, report=told.append)
    with pytest.raises(freepost.BadInput, match="name no mailbox"):
        job.extend(3600)
    with pytest.raises(freepost.BadInput, match="has no task '7'"):
        list(job.logs("7"))
    job.wait(check=False)
    job.revoke(undo=True)
    assert (told[-1].name, told[-1].data["changed"]) == ("unrevoked", False)
    job.remove()


def test_collecting_revokes_what_nobody_waited_for(operator, tmp_path, monkeypatch):
    """Whoever waits revokes as tasks end; of a retry since then, collecting has to."""
    told = []
    monkeypatch.setattr(freepost.Job, "_revoke_finished", lambda *_: told.append("revoked"))
    job = freepost.launch({**FAILS, **operator}, local=True)
    job.wait(check=False)
    job.collect(tmp_path / "got", check=False)
    assert told == []
    assert job.retry() == ["0"]
    job.collect(tmp_path / "got", check=False)
    assert told == ["revoked"]
    job.remove()


def test_an_endpoint_without_its_store_is_refused():
    """Neither is an endpoint dropped unheard where no store is named, nor where the embedded one is."""
    with pytest.raises(freepost.BadInput, match="endpoint_url: needs a store"):
        freepost.job("any", endpoint_url="http://127.0.0.1:1")
    with pytest.raises(freepost.BadInput, match="endpoint_url: needs a store"):
        freepost.jobs(endpoint_url="http://127.0.0.1:1")
    with pytest.raises(freepost.BadInput, match=r"endpoint_url: .* is not the embedded store's"):
        freepost.sign("s3://bucket/prefix", endpoint_url="http://127.0.0.1:1", local=True)


def test_a_plan_changes_nothing(operator, opened):
    """What a launch would do is said without an object in the bucket."""
    plan = freepost.plan({**FAILS, **operator}, local=True)
    assert plan.describe()["job"].startswith("fails-")
    assert not opened.list("")


def test_rendering_gives_the_bytes_and_staging_records_the_job(operator, opened):
    """`render` gives user-data; staged, the job can be opened."""
    made = freepost.render({**FAILS, **operator}, local=True, raw=True)
    assert made.data.startswith(b"#cloud-config\n")
    assert not opened.list("")
    staged = freepost.render({**FAILS, **operator}, local=True, stage=True)
    assert opened.get(JobKeys("p", staged.plan.job).record)
    assert freepost.job(staged.plan.job).status()[0].event == "launched"


def test_what_is_signed_works(provision, bucket, opened, http):
    """A slot takes an object, a link gives it back, and both end when they say."""
    url = f"s3://{bucket}/given/x"
    slot = freepost.upload_url(url, expires=60, size=2, local=True)
    assert timedelta(seconds=55) < slot.expires - utc_now() <= timedelta(seconds=60)
    assert http.put(slot.url, data=b"hi", headers=dict(slot.headers)).status_code == requests.codes.ok
    link = freepost.download_url(url, filename="hello.txt", local=True)
    answer = http.get(link.url)
    assert answer.content == b"hi"
    assert "hello.txt" in answer.headers["content-disposition"]
    grant = json.loads(freepost.sign(f"s3://{bucket}/given", local=True, max_bytes=9))
    assert grant["version"] == 1
    with pytest.raises(freepost.BadInput):
        freepost.sign(f"s3://{bucket}/given", local=True, expires=8 * 86_400)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: freepost.sign("s3://bucket/p/", expires=0, local=True), "expires: a signature lives from"),
        (
            lambda: freepost.sign("s3://bucket/p/", max_bytes=6 << 30, local=True),
            "max_bytes: 6442450944 is out of range",
        ),
        (lambda: freepost.sign("s3://bucket/p/", endpoint_url="foo"), "endpoint_url: invalid URL 'foo'"),
        (lambda: freepost.upload_url("s3://bucket/k", size=-1, local=True), "size: -1 is out of range"),
        (lambda: freepost.upload_url("s3://bucket/k", content_type="é", local=True), "content_type: invalid value 'é'"),
        (lambda: freepost.upload_url("s3://bucket/k", sha256="no", local=True), "sha256: invalid digest 'no'"),
        (lambda: freepost.download_url("s3://bucket/k", filename="a/b", local=True), "filename: invalid name 'a/b'"),
        (lambda: freepost.jobs(store="nowhere"), "store: 'nowhere' is not s3://BUCKET"),
    ],
    ids=["expires", "max_bytes", "endpoint_url", "size", "content_type", "sha256", "filename", "store"],
)
def test_a_wrong_argument_is_named_as_the_library_names_it(operator, call, message):
    """Not by the option of the command that takes the same."""
    with pytest.raises(freepost.BadInput) as told:
        call()
    assert str(told.value).startswith(message)
    assert str(told.value).startswith(f"{told.value.argument}: ")
