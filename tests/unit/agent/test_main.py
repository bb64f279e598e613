"""The `agent` command: exit codes, what it prints, and what it never prints."""

import json
import os
import pty
import re
import subprocess
import sys
import threading

import pytest

from agent.grant import dump
from agent.main import main
from tests.support.broken_store import broken_store
from tests.support.grants import ROOT, SECRETS, fake_grant, gather, reader, real_grant, run_agent, write_grant


@pytest.fixture
def evil():
    with broken_store() as server:
        yield server


@pytest.fixture
def here(evil, tmp_path):
    """A grant file for the broken store, and a file to send."""
    (tmp_path / "file").write_text("content")
    return write_grant(tmp_path, fake_grant(evil.url))


@pytest.mark.parametrize(
    ("argv", "exit_code", "says"),
    [
        ([], 2, "usage"),
        (["--help"], 0, "usage"),
        (["-h"], 0, "usage"),
        (["push", "-h"], 0, "usage"),
        (["--version"], 0, "agent "),
        (["push", "--", "-h"], 2, "-h: no such file"),
        (["fly"], 2, "usage"),
        (["push"], 2, "usage"),
        (["push", "--nonsense", "x"], 2, "--nonsense"),
        (["push", "--as"], 2, "--as: needs a value"),
        (["push", "--limit-rate", "fast", "x"], 2, "--limit-rate: not a number"),
        (["push", "--workers=x", "x"], 2, "--workers: not a number"),
        (["push", "--grant", "none", "x"], 3, "No such file"),
        (["push", "--grant", "/", "x"], 3, "directory"),
        (["push", "-"], 2, "--as NAME"),
        (["push", "absent"], 2, "absent: no such file"),
        (["push", "file"], 0, "1 files"),
        (["push", "--", "file"], 0, "1 files"),
        (["push", "--split-over", "1.5M", "--limit-rate=1G", "file"], 0, "1 files"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_exit_codes(here, tmp_path, argv, exit_code, says):
    """Each mistake has its exit code and a sentence, and none a traceback."""
    if argv[:1] == ["push"] and "--grant" not in argv:
        argv = ["push", "--grant", str(here), *argv[1:]]
    done = run_agent(*argv, cwd=tmp_path)
    said = (done.stderr + done.stdout).decode()
    assert (done.returncode, "Traceback" in said) == (exit_code, False), said
    assert says in said


@pytest.mark.parametrize(
    ("text", "exit_code"),
    [("", 3), ("{}", 3), ("\xff", 3), ('{"version": 2}', 9), ('{"version": 1, "job": "' + SECRETS[0] + '"', 3)],
)
def test_a_bad_grant(tmp_path, text, exit_code):
    """A grant that can't be read has exit code 3, one of another version 9; neither is quoted."""
    (tmp_path / "grant.json").write_text(text)
    done = run_agent("push", "--grant", "grant.json", "x", cwd=tmp_path)
    assert done.returncode == exit_code
    assert SECRETS[0].encode() not in done.stderr


def test_the_grant_is_found_by_the_environment(here, tmp_path):
    """FREEPOST_GRANT names the grant when no option does."""
    env = dict(os.environ, PYTHONPATH=str(ROOT), FREEPOST_GRANT=str(here))
    done = subprocess.run(
        [sys.executable, "-m", "agent", "push", "file"], env=env, cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_expired_grant_names_what_was_sent(evil, tmp_path):
    """Exit code 4 comes with the list of the files that were stored before."""
    path = write_grant(tmp_path, fake_grant(evil.url))
    for name in "abcdef":
        (tmp_path / name).write_text("x")
    run_agent("push", "--grant", path, "a", "b", cwd=tmp_path, check=0)
    evil.always = (403, b"<Error><Code>AccessDenied</Code><Message>Policy expired.</Message></Error>")
    done = run_agent("push", "--grant", path, *"abcdef", cwd=tmp_path)
    assert done.returncode == 4
    assert re.findall(r"stored before: (\w)", done.stderr.decode()) == ["a", "b"]


def test_a_store_that_is_not_there(tmp_path, evil):
    """A refused connection ends in exit code 7 and names the host."""
    grant = fake_grant("http://127.0.0.1:9/")
    (tmp_path / "file").write_text("x")
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    code = "from agent import retry; retry.WAIT = 0.001; from agent.main import main; raise SystemExit(main())"
    argv = [sys.executable, "-c", code, "push", "--grant", write_grant(tmp_path, grant), "file"]
    done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 7
    assert b"127.0.0.1: " in done.stderr
    assert b"refused" in done.stderr


@pytest.mark.parametrize("bundle", [[], ["--bundle"]], ids=["plain", "bundle"])
@pytest.mark.parametrize(
    "answer",
    [
        None,
        (403, b"<Error><Code>AccessDenied</Code><Message>%s %s</Message></Error>" % tuple(s.encode() for s in SECRETS)),
        (400, b"garbage " + SECRETS[0].encode()),
        "garbage",
    ],
    ids=["good", "echo", "no XML", "no HTTP"],
)
def test_no_secret_in_any_output(evil, tmp_path, answer, bundle):
    """Whatever the store says, no output, journal or argv holds the policy, a signature or a token."""
    grant = fake_grant(evil.url)
    path = write_grant(tmp_path, grant)
    for number in range(30):
        (tmp_path / str(number)).write_text("x")
    evil.always = answer
    code = "from agent import retry; retry.WAIT = 0.001; from agent.main import main; raise SystemExit(main())"
    argv = [sys.executable, "-c", code, "push", "--grant", path, "--json", *bundle, *map(str, range(30))]
    push = subprocess.Popen(
        argv,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out, _ = push.communicate()
    out += (tmp_path / "grant.json.journal").read_bytes()
    assert b"Traceback" not in out
    for secret in (*SECRETS, "conditions", "starts-with", "X-Amz"):
        assert secret.encode() not in out


def test_json_is_lines_of_json(here, tmp_path):
    """--json prints JSON on standard output and nothing else; the last line sums up."""
    done = run_agent("push", "--grant", here, "--json", "file", cwd=tmp_path, check=0)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["event"] == "done"
    assert (events[-1]["files"], events[-1]["bytes"], events[-1]["exit_code"]) == (1, 7, 0)


def test_a_terminal_gets_one_line(evil, tmp_path):
    """On a terminal, progress is one line that is written over."""
    (tmp_path / "big").write_bytes(bytes(30 << 20))
    path = write_grant(tmp_path, fake_grant(evil.url))
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "agent", "push", "--grant", path, "--limit-rate", "40M", "big"]
    push = subprocess.Popen(argv, env=dict(os.environ, PYTHONPATH=str(ROOT)), cwd=tmp_path, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 9999):
            said += piece
    except OSError:
        pass  # the terminal's other end is closed
    os.close(ours)
    assert push.wait() == 0
    shown = re.findall(rb"\r[01] of 1 files, \d+ of 31 MB, [\d.]+ MB/s, \d:\d\d left\x1b\[K", said)
    assert len(shown) >= 2, said


def test_check_names_the_condition(s3, bucket, tmp_path):
    """`agent check` says of each file which condition would fail, and sends nothing."""
    grant = real_grant(s3, bucket, low=2, high=10)
    path = write_grant(tmp_path, grant)
    (tmp_path / "good").write_text("12345")
    (tmp_path / "tiny").write_text("1")
    done = run_agent("check", "--grant", path, "good", "tiny", cwd=tmp_path, check=5)
    lines = done.stdout.decode().splitlines()
    assert lines == ["good: ok", "tiny: the file has 1 bytes; content-length-range allows 2 to 10"]
    assert run_agent("check", "--grant", path, "good", cwd=tmp_path, check=0).stdout == b"good: ok\n"
    late = json.loads(run_agent("check", "--json", "--grant", path, "good", "tiny", cwd=tmp_path, check=5).stdout)
    assert late["good"] == []
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_a_journal_is_shared_by_two_pushes(s3, bucket, tmp_path):
    """Two pushes at once on one journal both end well, and the manifest has the files of both."""
    grant = real_grant(s3, bucket)
    path = write_grant(tmp_path, grant)
    for number in range(40):
        (tmp_path / f"{number:02d}").write_text(str(number))
    results = []

    def push(numbers):
        results.append(run_agent("push", "--grant", path, *(f"{number:02d}" for number in numbers), cwd=tmp_path))

    threads = [threading.Thread(target=push, args=(numbers,)) for numbers in (range(20), range(20, 40))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [done.returncode for done in results] == [0, 0]
    assert len(gather(reader(s3, bucket), grant)[0]) == 40


def test_a_grant_that_others_made_is_dumped_alike(here):
    """The file that the tests write is what `dump` gives."""
    from agent.grant import parse

    assert dump(parse(here.read_text())) == here.read_text()


def test_a_reader_that_has_seen_enough(here, tmp_path):
    """`agent --help | head -1` ends without a word, whoever has hung up before all was written."""
    for words in (
        ["--help"],
        ["check", "--grant", here, *["file"] * 9999],
        ["push", "--json", "--grant", here, "file"],
    ):
        out, into = os.pipe()
        os.close(out)
        command = [sys.executable, "-m", "agent", *words]
        env = dict(os.environ, PYTHONPATH=str(ROOT))
        done = subprocess.run(command, env=env, cwd=tmp_path, stdout=into, stderr=-1, check=False)
        os.close(into)
        assert b"Error" not in done.stderr
        assert b"Broken pipe" not in done.stderr


@pytest.mark.parametrize(
    ("missing", "argv", "says"),
    [
        ("agent.commands", ["push", "file"], "this VM has only what runs its job"),
        ("agent.check", ["check", "file"], "agent.check is not in this VM"),
        ("agent.pull", ["pull"], "agent.pull is not in this VM"),
        ("tty", ["push", "file"], "ModuleNotFoundError: "),
    ],
)
def test_what_is_missing_is_told_apart(here, missing, argv, says):
    """Only an agent's command that the VM has no need of is called so; another module's lack is a fault, and shown."""
    code = f"""
import sys
sys.modules[{missing!r}] = None
from agent import grantfile, main
grantfile.load = lambda path=None: __import__({missing!r})
sys.exit(main.main({argv!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=here.parent,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        stderr=-1,
        check=False,
    )
    assert says in done.stderr.decode()
    assert done.returncode == (1 if missing == "tty" else 2)


def test_an_output_that_is_full(tmp_path):
    """What can't be printed ends the command with a sentence, not a traceback."""
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-u", "-m", "agent", "--version"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=-1, check=False)
    assert done.stderr == b"agent: [Errno 28] No space left on device\n"
    assert done.returncode == 6


def test_most_vms_have_no_module_for_grants_in_the_bucket(tmp_path, monkeypatch, capfd):
    """`agent run` does without it, and looks for its own grant."""
    monkeypatch.setitem(sys.modules, "agent.remote_grant", None)
    monkeypatch.setenv("FREEPOST_GRANT", str(tmp_path / "none.json"))
    assert main(["run"]) == 3
    assert "none.json" in capfd.readouterr().err


def test_most_vms_read_their_grant_from_its_file(here, monkeypatch):
    """Where the module that fetches a grant didn't travel, `agent run` runs by the grant in the file."""
    ran = []
    monkeypatch.setitem(sys.modules, "agent.remote_grant", None)
    monkeypatch.setattr("agent.task.run", lambda grant, path: ran.append((grant.job, path)) or 7)
    monkeypatch.setenv("FREEPOST_GRANT", str(here))
    assert main(["run"]) == 7
    assert ran == [("job", str(here))]
