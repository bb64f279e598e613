"""The agent's second stage: what is fetched, kept and unpacked; what is refused; and a job that goes on without it."""

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from agent import boot, retry
from agent.errors import TransferError
from agent.layout import ARCHIVE_LAST
from provisioner.packing import agent_archive
from tests.support.broken_store import broken_store
from tests.support.grants import fake_grant, write_grant
from tests.support.interpreters import AGENT_PYTHONS
from tests.support.packed import files, unpack

ERROR = b"<Error><Code>%s</Code><Message>no</Message></Error>"
BUSY = (503, ERROR % b"SlowDown")


@pytest.fixture
def store():
    """A store that has the archive, and can be told to fail."""
    with broken_store() as server:
        server.objects["rest"] = agent_archive.rest()
        yield server


@pytest.fixture
def source(store):
    """What the grant says of the archive."""
    return told(store.url)


@pytest.fixture
def pauses(monkeypatch):
    """What happens at each pause between two tries, in place of time; a list that counts them."""
    made = []

    def with_retries(attempt, **more):
        return retry.with_retries(attempt, pause=lambda _: made.append(0), **more)

    monkeypatch.setattr(boot, "with_retries", with_retries)
    return made


def told(url):
    """What a grant says of an archive at `url`."""
    data = agent_archive.rest()
    return {"url": f"{url}rest?sig=5ecre7", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize(
    ("faults", "paused"),
    [(["cut"], 1), ([BUSY], 1), (["cut", BUSY, "cut", BUSY], 3)],
    ids=["cut off", "busy", "both"],
)
def test_it_is_asked_for_until_it_is_whole(store, source, pauses, tmp_path, faults, paused):
    """A reply that is cut off and one that says busy are followed by another try, on a used connection at once."""
    store.faults.extend(faults)
    boot.fetch_pinned(str(tmp_path / "kept"), source)
    assert (tmp_path / "kept").read_bytes() == agent_archive.rest()
    assert oct((tmp_path / "kept").stat().st_mode) == "0o100400"
    assert (len(pauses), store.requests) == (paused, len(faults) + 1)


def test_a_store_that_answers_later(monkeypatch, tmp_path):
    """A store that refuses connections at first is asked again, and is up by then."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with contextlib.ExitStack() as stack:
        up = []

        def pause(_):
            if up:
                return
            up.append(stack.enter_context(broken_store(port)))
            up[0].objects["rest"] = agent_archive.rest()

        monkeypatch.setattr(
            boot, "with_retries", lambda attempt, **more: retry.with_retries(attempt, pause=pause, **more)
        )
        boot.fetch_pinned(str(tmp_path / "kept"), told(f"http://127.0.0.1:{port}/"))
        assert [server.requests for server in up] == [1]
    assert (tmp_path / "kept").read_bytes() == agent_archive.rest()


def test_a_name_that_has_no_address_at_first(store, pauses, monkeypatch, tmp_path):
    """A lookup that fails is tried again, however often within the five minutes."""
    lookups, find = [], socket.getaddrinfo

    def look_up(host, *more, **options):
        lookups.append(host)
        if len(lookups) < 15:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return find("127.0.0.1", *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    boot.fetch_pinned(str(tmp_path / "kept"), told(f"http://store.test:{store.server_port}/"))
    assert lookups == [b"store.test"] * 15
    assert len(pauses) == 14
    assert (tmp_path / "kept").read_bytes() == agent_archive.rest()


def test_five_minutes_and_no_longer(source, store, monkeypatch, tmp_path):
    """A store that never answers well is given up once the pauses come to five minutes."""
    waits = []
    monkeypatch.setattr(
        boot, "with_retries", lambda attempt, **more: retry.with_retries(attempt, pause=waits.append, **more)
    )
    store.always = BUSY
    with pytest.raises(TransferError, match="503 SlowDown"):
        boot.fetch_pinned(str(tmp_path / "kept"), source)
    assert retry.PATIENCE - 30 <= sum(waits) <= retry.PATIENCE


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((404, ERROR % b"NoSuchKey"), 5),
        ((403, ERROR % b"AccessDenied"), 5),
        ((403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"), 4),
        ((416, ERROR % b"InvalidRange"), 5),
    ],
    ids=["deleted", "denied", "expired", "empty"],
)
def test_a_refusal_is_believed(store, source, pauses, tmp_path, answer, code):
    """What the store refuses for good is asked for once, and the sentence holds nothing of the URL's signature."""
    store.always = answer
    with pytest.raises(TransferError) as caught:
        boot.fetch_pinned(str(tmp_path / "kept"), source)
    assert (caught.value.exit, store.requests, pauses) == (code, 1, [])
    assert "5ecre7" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("become", ["changed", "shorter", "larger"])
def test_something_else_is_refused(store, source, pauses, tmp_path, become):
    """An object that isn't what was launched with is asked for once, never kept, and not read whole if larger."""
    data = store.objects["rest"]
    store.objects["rest"] = {"changed": b"x" + data[1:], "shorter": data[:-1], "larger": data + bytes(1 << 20)}[become]
    with pytest.raises(TransferError, match="is not what this VM was launched with") as caught:
        boot.fetch_pinned(str(tmp_path / "kept"), source)
    assert (caught.value.exit, pauses) == (8, [])
    assert store.posts == [f"/rest?sig=5ecre7 0-{len(data)}"]
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_knows_no_ranges(store, source, tmp_path):
    """A whole object, with status 200, is as good as its range."""
    store.faults.append("no ranges")
    boot.fetch_pinned(str(tmp_path / "kept"), source)
    assert (tmp_path / "kept").read_bytes() == agent_archive.rest()


def test_what_is_kept_is_not_fetched_again(store, source, tmp_path):
    """A file of this sha256 is taken as it is; one that is torn or of something else is fetched anew."""
    kept = tmp_path / "kept"
    kept.write_bytes(agent_archive.rest())
    boot.fetch_pinned(str(kept), source)
    assert store.requests == 0
    for wrong in (agent_archive.rest()[:-100], b"", b"x"):
        kept.chmod(0o600)
        kept.write_bytes(wrong)
        boot.fetch_pinned(str(kept), source)
        assert kept.read_bytes() == agent_archive.rest()
    assert store.requests == 3


def test_a_left_over_of_a_killed_process(store, source, tmp_path):
    """A torn file under the temporary name, closed even to its owner, is no obstacle."""
    (tmp_path / "kept.new").write_bytes(agent_archive.rest()[:5000])
    (tmp_path / "kept.new").chmod(0o400)
    boot.fetch_pinned(str(tmp_path / "kept"), source)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_bytes() == agent_archive.rest()


def test_an_installed_package_is_left_alone(store, source):
    """Where the modules are there already, nothing is asked for and nothing is written."""
    assert boot.complete(source) is None
    assert store.requests == 0
    assert not Path(source["sha256"]).exists()


@pytest.fixture
def core(tmp_path, monkeypatch):
    """The folder of a core without the rest, in the place of this checkout's."""
    folder = tmp_path / "app"
    folder.mkdir()
    monkeypatch.setattr(boot, "__file__", str(folder / "boot.py"))
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_rest_is_unpacked_beside_the_core(store, source, core):
    """Each file of the archive is written once, as it was packed; what is there then is asked for no more."""
    assert boot.complete(source) is None
    assert {path.name: path.read_text() for path in core.iterdir()} == files(agent_archive.rest())
    assert boot.complete(source) is None
    assert store.requests == 1


@pytest.mark.parametrize("trouble", ["denied", "no folder"])
def test_what_can_not_be_unpacked_is_told(store, source, core, trouble):
    """A store that refuses, or a folder that can't be written to, is a sentence, and nothing looks complete."""
    if trouble == "denied":
        store.always = (403, ERROR % b"AccessDenied")
    else:
        core.rmdir()
    said = boot.complete(source)
    assert said.startswith("the rest of the agent can't be had: ")
    assert ("403 AccessDenied" if trouble == "denied" else "No such file or directory") in said
    assert not (core / f"{ARCHIVE_LAST}.py").exists()


# Completes a packed core as `agent run` does, as another user if told, and says what can be imported then.
COMPLETE = """
import json, os, sys
app, source, user = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
sys.path.insert(0, app)
from agent import boot
import bz2, importlib
try:
    import agent.compose
    raise SystemExit("the core has what the archive brings")
except ImportError:
    pass
if user:
    os.setgid(user)
    os.setuid(user)
said = boot.complete(source)
names = [name[:-3] for name in sorted(os.listdir(app + "/agent")) if name.endswith(".py")]
for name in names if not user else ():  # nobody but root may be able to read this Python
    importlib.import_module("agent." + name)
print(json.dumps([said, names]))
"""


def completed(python, app, source, folder, user=0):
    """Complete the core in `app` beside a grant in `folder`. Return what was said, and the modules that there are."""
    words = [python, "-EsS", "-W", "error::ResourceWarning", "-c", COMPLETE, app, json.dumps(source), str(user)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.parametrize("python", AGENT_PYTHONS)
def test_it_is_complete_and_stays_so(python, store, source, tmp_path):
    """A core becomes the whole agent; after a reboot, which begins with the core, it does so from its disk."""
    here = tmp_path / "beside"
    here.mkdir()
    for boots in ("first", "second"):
        app = unpack(agent_archive.packed(more=True), tmp_path / boots)
        said, names = completed(python, app, source, here)
        assert said is None
        assert {*agent_archive.CORE, *agent_archive.remaining()} <= set(names)
    assert store.requests == 1
    assert [path.name for path in here.iterdir()] == [source["sha256"]]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_as_an_ordinary_user(store, source):
    """Who isn't root, as with the local provider, completes it in folders of their own."""
    with tempfile.TemporaryDirectory() as name:
        here, user = Path(name), 65534
        app = unpack(agent_archive.packed(more=True), here / "app")
        for path in (here, here / "app", here / "app/agent"):
            os.chown(path, user, user)
        here.chmod(0o755)
        said, names = completed(sys.executable, app, source, here, user)
        assert said is None
        assert "compose" in names
        assert (here / source["sha256"]).stat().st_uid == user


@pytest.mark.parametrize("python", AGENT_PYTHONS)
def test_a_command_that_is_not_there(python, tmp_path):
    """`agent push` in a VM that could not have the rest says one sentence and exits with 2."""
    app = unpack(agent_archive.packed(more=True), tmp_path / "app")
    done = subprocess.run(
        [python, "-EsS", app, "push", "--bundle", "file"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "agent: this VM has only what runs its job\n"


FULL = """
import sys
sys.path.insert(0, sys.argv[1])
from agent import boot, main
def full(path, data):
    raise OSError(28, "No space left on device")
boot.replace = full
raise SystemExit(main.main(["run"]))
"""


def ran(python, store, app, folder, program=None):
    """Run a job on a core; its outputs are to go up in bundles. Return its last event, and its log."""
    path = write_grant(folder, fake_grant(store.url)._replace(agent=told(store.url)))
    outputs = [{"glob": "out*", "bundle": True}]
    task = {"command": ["sh", "-c", "echo 1 >out1; echo 2 >out2; echo said"], "env": {}, "user": None, "timeout": 60}
    task.update(grace=5, workdir=str(folder / "work"), outputs=outputs, checkpoint=None, spot=True)
    (folder / "task.json").write_text(json.dumps(task))
    words = ["-c", program, str(app)] if program else [str(app), "run"]
    environment = {"FREEPOST_GRANT": str(path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [python, "-sS", *words], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(store.objects["job/status/0/1/succeeded"]), done.stderr


@pytest.mark.parametrize("python", AGENT_PYTHONS)
def test_a_job_goes_on_without_the_rest(python, store, tmp_path):
    """Where the archive is gone the job runs, its outputs go up one by one, and each event has the warning."""
    store.faults.append((404, ERROR % b"NoSuchKey"))
    app = unpack(agent_archive.packed(more=True), tmp_path / "app")
    last, said = ran(python, store, app, tmp_path)
    warning = "the rest of the agent can't be had: the store answered 404 NoSuchKey: no"
    assert said == warning + "\n"
    for event in ("booted", "started", "succeeded"):
        assert json.loads(store.objects[f"job/status/0/1/{event}"])["warning"] == warning
    assert (last["upload"]["files"], last["upload"]["failed"]) == (2, [])
    assert store.objects["job/out/0/1/out1"] == b"1\n"
    assert store.objects["job/out/0/1/out2"] == b"2\n"
    assert store.objects["job/status/0/1/log/000001"] == b"said\n"


def test_a_job_goes_on_on_a_full_disk(store, tmp_path):
    """Where the archive can't be kept the job runs all the same."""
    app = unpack(agent_archive.packed(more=True), tmp_path / "app")
    last, _ = ran(sys.executable, store, app, tmp_path, FULL)
    assert last["warning"] == "the rest of the agent can't be had: [Errno 28] No space left on device"
    assert store.objects["job/out/0/1/out1"] == b"1\n"


def test_a_job_whose_agent_is_complete(store, tmp_path):
    """With the archive the same job's outputs go up in a bundle, and nothing is warned of."""
    app = unpack(agent_archive.packed(more=True), tmp_path / "app")
    last, said = ran(sys.executable, store, app, tmp_path)
    assert (last["warning"], said) == (None, "")
    assert [key for key in store.objects if key.startswith("job/out/0/1/out")] == []
    assert [key for key in store.objects if key.startswith("job/out/0/1/.bundles/")] != []
