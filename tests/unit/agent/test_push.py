"""`agent push` against a real store: what arrives, in what pieces, what is sent again, and what is refused."""

import io
import itertools
import json
import os
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from agent import files, push_stream, upload_units, workers
from agent import push as pushing
from agent.files import Item
from agent.options import limit
from agent.push import Pusher
from agent.push_command import most_urgent_first
from tests.support.grants import gather, reader, real_grant, run_agent, tree_of, write_grant

NAMES = [
    b"plain",
    b"with space",
    b"new\nline",
    b"return\r\n\r\nX-Header: 1",
    b"quo\"te's",
    b"not utf-8 \xff\xfe",
    b"percent %41 %",
    b"back\\slash",
    "snowman ☃ ünïcode".encode(),
    b"semi;colon&amp<b>",
    b"${filename}",
    b"-dash",
    b"tab\there",
    b"x" * 200,
]


@pytest.fixture
def grant(s3, bucket):
    return real_grant(s3, bucket)


@pytest.fixture
def pusher(grant, tmp_path):
    return Pusher(grant, str(tmp_path / "journal"))


@pytest.fixture
def alone(monkeypatch):
    """Let the push use threads of this process, so that a test can reach into them."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})


@pytest.fixture
def read(s3, bucket):
    return reader(s3, bucket)


@pytest.fixture
def tree(tmp_path):
    """A folder with every kind of file that there is."""
    root = tmp_path / "tree"
    (root / "deep" / "deeper").mkdir(parents=True)
    (root / "hollow").mkdir()
    for name in NAMES:
        with open(os.path.join(os.fsencode(root), name), "wb") as file:
            file.write(b"content of " + name)
    (root / "zero").touch()
    (root / "deep" / "deeper" / "big").write_bytes(os.urandom(3 << 20))
    return root


@pytest.mark.parametrize("bundle", [False, True], ids=["plain", "bundle"])
def test_a_tree_arrives_whole(pusher, grant, read, tree, bundle):
    """Every name, an empty file and an empty directory come back as they were, bundled or not."""
    result = pusher.push([str(tree)], base=str(tree), bundle=bundle)
    assert (result.exit_code, result.failed, result.files) == (0, [], len(NAMES) + 2)
    pusher.manifest()
    found, manifest = gather(read, grant)
    assert found == tree_of(tree)
    assert manifest["complete"] is True
    assert (manifest["job"], manifest["task"], manifest["attempt"]) == ("job", "0", 1)
    assert {entry.get("verified", "sha256") for entry in manifest["entries"]} == {"sha256"}
    assert len(manifest["bundles"]) == bundle


def test_many_processes_send_one_tree(s3, bucket, grant, read, tree, tmp_path):
    """The command, which forks, stores the same tree; a second run sends nothing."""
    path = write_grant(tmp_path, grant)
    for number in range(300):
        (tree / f"{number}").write_bytes(os.urandom(number))
    done = run_agent("push", "--grant", path, "--base", tree, tree, check=0)
    assert b"%d files with" % (300 + len(NAMES) + 2) in done.stderr
    assert gather(read, grant)[0] == tree_of(tree)
    times = {
        item["Key"]: item["LastModified"] for item in s3.list_objects_v2(Bucket=bucket, Prefix="job/out/")["Contents"]
    }
    assert b"0 of them sent now" in run_agent("push", "--grant", path, "--base", tree, tree, check=0).stderr
    again = s3.list_objects_v2(Bucket=bucket, Prefix="job/out/")["Contents"]
    assert times == {item["Key"]: item["LastModified"] for item in again}


@pytest.mark.parametrize(("size", "forks"), [(100, True), (4 << 20, False)], ids=["small", "large"])
def test_only_small_files_take_other_processes(pusher, monkeypatch, tmp_path, size, forks):
    """Threads are enough for large files, and take less than half of the memory."""
    seen = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(threading, "active_count", lambda: 1)

    def fork(real=os.fork):
        seen.append(real())
        return seen[-1]

    monkeypatch.setattr(os, "fork", fork)
    for number in range(5):
        (tmp_path / f"{number}.dat").write_bytes(os.urandom(size))
    result = pusher.push([str(tmp_path / "*.dat")], base=str(tmp_path))
    assert (result.exit_code, result.sent, len(seen)) == (0, 5, 2 * forks)


@pytest.mark.parametrize(("size", "threads"), [(100, [0, 1, 3, 7]), (4 << 20, [0, 1, 2, 3])], ids=["small", "large"])
def test_threads_for_large_files_come_one_at_a_time(pusher, monkeypatch, size, threads):
    """While all cores are idle the threads double; for large files, which a slow store must hold, they don't."""
    started, seen, ticks = [], [], itertools.count()

    def uptime():
        now = next(ticks)
        return now, 99 * now

    monkeypatch.setattr(workers, "uptime", uptime)
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    monkeypatch.setattr(threading, "Thread", lambda **_: SimpleNamespace(start=lambda: started.append(0), join=int))
    monkeypatch.setattr(pusher, "upload", lambda *_: seen.append(len(started)) or 0)
    pusher.reset(0)
    units = [upload_units.WholeFile(Item("file", "file", size, 0, 0, "/"))] * 4
    pool = workers.Workers(pusher, [*units, None].__getitem__)
    pool.run_workers(32)
    for fd in (pool.reports, *pool.counter):
        os.close(fd)
    assert seen == threads


@pytest.mark.usefixtures("alone")
def test_an_interrupted_push_says_no_more(pusher, monkeypatch, tmp_path):
    """Threads that were sending when the push was interrupted come to their end without a traceback."""
    began, interrupted, errors = threading.Event(), threading.Event(), []

    def upload(*_):
        began.set()
        assert interrupted.wait(30)
        return 0

    def collect_reports(*_):
        assert began.wait(30)
        raise KeyboardInterrupt

    monkeypatch.setattr(pusher, "upload", upload)
    monkeypatch.setattr(workers.Workers, "collect_reports", collect_reports)
    monkeypatch.setattr(threading, "excepthook", errors.append)
    before = set(threading.enumerate())
    for number in range(5):
        (tmp_path / f"{number}.dat").write_bytes(b"data")
    with pytest.raises(KeyboardInterrupt):
        pusher.push([str(tmp_path / "*.dat")], base=str(tmp_path))
    interrupted.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert errors == []


def test_what_changed_on_disk_is_sent_again(pusher, grant, read, tree):
    """A second push sends the file that changed, the new one, and nothing else."""
    pusher.push([str(tree)], base=str(tree))
    (tree / "plain").write_text("other")
    (tree / "new").write_text("new")
    result = pusher.push([str(tree)], base=str(tree))
    assert (result.exit_code, result.sent, result.files) == (0, 2, len(NAMES) + 3)
    pusher.manifest()
    assert gather(read, grant)[0] == tree_of(tree)


@pytest.mark.parametrize("sums", [True, False], ids=["checksum", "etag"])
def test_a_large_file_goes_in_parts(s3, bucket, read, tmp_path, monkeypatch, sums):
    """A file over the limit becomes parts, each with its sha256, and only missing parts are sent again."""
    monkeypatch.setattr(pushing, "PART_SIZE", 1 << 20)
    monkeypatch.setattr(pushing, "SMALL", 1 << 18)
    monkeypatch.setattr(upload_units, "SMALL", 1 << 18)
    grant = real_grant(s3, bucket, sums=sums)
    big = tmp_path / "big"
    big.write_bytes(os.urandom((5 << 20) + 12345))
    pusher = Pusher(grant, str(tmp_path / "journal"), split=2 << 20)
    result = pusher.push([str(big)], base=str(tmp_path))
    assert (result.exit_code, result.files, result.sent) == (0, 1, 1)
    pusher.manifest()
    found, manifest = gather(read, grant)
    assert found == {b"big": big.read_bytes()}
    (entry,) = manifest["entries"]
    assert [part["size"] for part in entry["parts"]] == [1 << 20] * 5 + [12345]
    assert entry["verified"] == ("sha256" if sums else "etag")
    lines = (tmp_path / "journal").read_bytes().splitlines(keepends=True)
    (tmp_path / "journal").write_bytes(b"".join(lines[:4]))
    again = Pusher(grant, str(tmp_path / "journal"), split=2 << 20)
    again.push([str(big)], base=str(tmp_path))
    parts = [json.loads(line)["part"] for line in (tmp_path / "journal").read_bytes().splitlines() if b'"part"' in line]
    assert sorted(parts) == [1, 2, 3, 4, 5, 6]


def test_a_policy_smaller_than_a_part_is_kept_to(s3, bucket, read, tmp_path):
    """A file above the policy's limit is split below it, whatever the part size would be."""
    grant = real_grant(s3, bucket, high=1_000_000)
    big = tmp_path / "big"
    big.write_bytes(os.urandom(3_500_000))
    pusher = Pusher(grant, str(tmp_path / "journal"))
    assert pusher.push([str(big)], base=str(tmp_path)).exit_code == 0
    pusher.manifest()
    assert gather(read, grant)[0] == {b"big": big.read_bytes()}


class Slow(io.RawIOBase):
    """A stream that gives a few bytes a time."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def readinto(self, into):
        """Give at most 100 kB."""
        piece = self.data[self.at : self.at + min(100_000, len(into))]
        into[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)

    def readable(self):
        """It is."""
        return True


@pytest.mark.parametrize("size", [0, 5, 1 << 20, 3_333_333], ids=str)
def test_a_stream_arrives(pusher, grant, read, monkeypatch, size):
    """A stream of unknown length arrives as one file, in parts when it is longer than one."""
    monkeypatch.setattr(push_stream, "PART_SIZE", 1 << 20)
    data = os.urandom(size)
    result = push_stream.push_stream(pusher, Slow(data), "all.tar")
    assert (result.exit_code, result.files, result.bytes, result.sent) == (0, 1, size, 1)
    pusher.manifest()
    found, manifest = gather(read, grant)
    assert found == {b"all.tar": data}
    assert len(manifest["entries"][0].get("parts", [])) == (0 if size < 1 << 20 else -(-size // (1 << 20)))


def test_a_stream_of_the_command(grant, read, tmp_path):
    """`… | agent push - --as NAME` stores standard input."""
    path = write_grant(tmp_path, grant)
    run_agent("push", "--grant", path, "-", "--as", "dir/x y", check=0, input=b"piped")
    assert gather(read, grant)[0] == {b"dir/x y": b"piped"}
    assert b"--as NAME" in run_agent("push", "--grant", path, "-", check=2, input=b"piped").stderr


def test_links_stay_inside_their_tree(pusher, grant, read, tmp_path):
    """A link inside the tree is followed; one to nothing, out of it, or to a folder above is skipped with a line."""
    tree, said = tmp_path / "tree", []
    (tree / "sub").mkdir(parents=True)
    (tree / "file").write_text("inside")
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "tree-beside").mkdir()
    (tree / "sub" / "good").symlink_to("../file")
    (tree / "folder").symlink_to("sub")
    (tree / "out").symlink_to("../outside")
    (tree / "beside").symlink_to("../tree-beside")
    (tree / "none").symlink_to("nowhere")
    (tree / "sub" / "loop").symlink_to("..")
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tree / "socket"))
        pusher.say = said.append
        result = pusher.push([str(tree)], base=str(tmp_path))
    assert (result.exit_code, result.failed) == (0, [])
    pusher.manifest()
    assert gather(read, grant)[0] == dict.fromkeys([b"tree/file", b"tree/folder/good", b"tree/sub/good"], b"inside")
    skipped = sorted(line.split()[1].rstrip(":") for line in said)
    names = ["beside", "fifo", "folder/loop", "none", "out", "socket", "sub/loop"]
    assert skipped == [f"tree/{name}" for name in names]


def test_a_link_put_in_a_files_place_leads_nowhere(pusher, tmp_path, monkeypatch):
    """A file that becomes a link out of the tree after it was listed is not read."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("mine")
    (tmp_path / "secret").write_text("not mine")
    real = pusher.plan_units

    def swap(items, bundle):
        (tree / "file").unlink(missing_ok=True)
        (tree / "file").symlink_to("../secret")
        return real(items, bundle)

    monkeypatch.setattr(pusher, "plan_units", swap)
    result = pusher.push([str(tree)], base=str(tree))
    assert (result.exit_code, result.files, pusher.journal.files) == (6, 0, {})


def test_a_file_that_keeps_changing_is_reported(pusher, tmp_path, monkeypatch):
    """A file that grows during each attempt is named as changing and isn't in the journal; its neighbour arrives."""
    monkeypatch.setattr(pushing, "WAIT", 0.001)
    (tmp_path / "calm").write_text("calm")
    wild = tmp_path / "wild"
    wild.write_bytes(bytes(100))
    real = os.pread

    def grow(fd, size, at):
        data = real(fd, size, at)
        if os.readlink(f"/proc/self/fd/{fd}") == str(wild):
            with wild.open("ab") as file:
                file.write(b"more")
        return data

    monkeypatch.setattr(os, "pread", grow)
    result = pusher.push([str(wild), str(tmp_path / "calm")], base=str(tmp_path))
    assert (result.exit_code, result.files) == (6, 1)
    assert result.failed == [("wild", "it changed while it was read")]
    assert list(pusher.journal.files) == ["calm"]


@pytest.mark.usefixtures("alone")
def test_a_file_that_changed_once_arrives_in_the_end(pusher, grant, read, tmp_path, monkeypatch):
    """A file that grew while its parts were sent is looked at anew and sent whole."""
    monkeypatch.setattr(pushing, "WAIT", 0.001)
    monkeypatch.setattr(pushing, "PART_SIZE", 1 << 20)
    pusher.split = 2 << 20
    big = tmp_path / "big"
    big.write_bytes(os.urandom(4 << 20))
    real, grown = pusher.put, []

    def grow(*args):
        if not grown:
            grown.append(1)
            with big.open("ab") as file:
                file.write(b"more")
        return real(*args)

    monkeypatch.setattr(pusher, "put", grow)
    assert pusher.push([str(big)], base=str(tmp_path)).exit_code == 0
    pusher.manifest()
    assert gather(read, grant)[0] == {b"big": big.read_bytes()}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"base": "."}, "out/a/file"),
        ({"base": "out"}, "a/file"),
        ({"as_name": "other"}, "other/a/file"),
        ({"base": "out", "as_name": "x/y"}, "x/y/a/file"),
    ],
    ids=str,
)
def test_base_and_as_name_what_is_stored(pusher, tmp_path, monkeypatch, options, name):
    """Names are relative to the base; --as names what a single argument becomes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "file").write_text("x")
    assert pusher.push(["out"], **options).stored == [name]
    assert pusher.push(["out/**"], base=options.get("base", ".")).files == 1


@pytest.mark.parametrize(
    ("paths", "more", "says"),
    [
        (["absent"], {}, "no such file"),
        (["*.none"], {}, "no such file"),
        (["/etc/hostname"], {}, "outside"),
        (["file"], {"as_name": "../up"}, "outside"),
        (["file"], {"as_name": "/abs"}, "outside"),
    ],
    ids=str,
)
def test_names_that_cannot_be(pusher, tmp_path, monkeypatch, paths, more, says):
    """A pattern that matches nothing and a name outside of the prefix are usage errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    result = pusher.push(paths, **more)
    assert (result.exit_code, result.files) == (2, 0)
    assert says in result.failed[0][1]


def test_a_name_too_long_for_a_key_fails_alone(pusher, tmp_path):
    """A path of over 1,024 bytes is named without a request; its neighbour arrives."""
    deep = tmp_path
    for _ in range(5):
        deep = deep / ("d" * 250)
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    (tmp_path / "short").write_text("x")
    result = pusher.push([str(tmp_path / "short"), str(tmp_path / ("d" * 250))], base=str(tmp_path))
    assert (result.exit_code, result.stored) == (6, ["short"])
    assert "too long" in result.failed[0][1]


def test_a_file_that_cannot_be_opened_fails_alone(pusher, tmp_path):
    """A file that vanished after it was listed is named; its neighbour arrives."""
    (tmp_path / "here").write_text("x")
    (tmp_path / "gone").write_text("x")
    real = pusher.plan_units
    pusher.plan_units = lambda *args: [(tmp_path / "gone").unlink(missing_ok=True), real(*args)][1]
    result = pusher.push([str(tmp_path / "here"), str(tmp_path / "gone")], base=str(tmp_path))
    assert (result.exit_code, result.stored, result.failed) == (6, ["here"], [("gone", "No such file or directory")])


def test_the_server_refuses_what_the_policy_does_not_allow(s3, bucket, tmp_path):
    """A file below the policy's least size, and a key outside of the prefix, are refused by the store."""
    (tmp_path / "file").write_text("x")
    grant = real_grant(s3, bucket, low=10)
    result = Pusher(grant, str(tmp_path / "journal")).push([str(tmp_path / "file")], base=str(tmp_path))
    assert (result.exit_code, result.files) == (5, 0)
    outside = grant._replace(outputs=grant.outputs._replace(prefix="elsewhere/"))
    (tmp_path / "file").write_text("0123456789")
    result = Pusher(outside, str(tmp_path / "journal")).push([str(tmp_path / "file")], base=str(tmp_path))
    assert result.exit_code == 5


@pytest.mark.usefixtures("alone")
def test_small_files_go_first_when_time_is_short(pusher, tmp_path):
    """By the rate of an earlier push, a push that can't be done in time says so and sends small files first."""
    for name, size in (("b", 3000), ("c", 20), ("d.log", 900), ("a", 500)):
        (tmp_path / name).write_bytes(bytes(size))
    pusher.journal.add({"rate": 0.001})
    pusher.journal.refresh()
    said = []
    pusher.say = said.append
    pusher.order = lambda items: most_urgent_first(pusher, items)
    pusher.workers = 1
    result = pusher.push([str(tmp_path / name) for name in ("b", "c", "d.log", "a")], base=str(tmp_path))
    assert result.exit_code == 0
    assert "warning" in said[0]
    assert list(pusher.journal.files) == ["d.log", "c", "a", "b"]


def test_a_deadline_set_while_files_are_looked_for_holds(pusher, tmp_path, monkeypatch):
    """`latest` is the deadline of a push that has none, even if it is set when the push has begun."""

    def scan(*arguments):
        pusher.latest = time.time() - 1
        return files.scan(*arguments)

    (tmp_path / "small").write_text("content")
    monkeypatch.setattr(pushing, "scan", scan)
    result = pusher.push([str(tmp_path / "small")], base=str(tmp_path))
    assert (result.exit_code, result.failed) == (6, [("small", "out of time")])


def test_no_workers_are_one(grant, tmp_path):
    """A push that is given no workers has one, which works beside whoever collects its reports."""
    assert Pusher(grant, str(tmp_path / "journal"), workers=0).workers == 1


def test_a_rate_is_kept_to(pusher, tmp_path):
    """--limit-rate spreads the bytes over time."""
    big = tmp_path / "big"
    big.write_bytes(bytes(3 << 20))
    limit(pusher, 8 << 20)
    pusher.push([str(big)], base=str(tmp_path))
    assert (tmp_path / "journal").stat().st_mtime - big.stat().st_mtime > 0.25
