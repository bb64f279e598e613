"""Collect trusts nothing but the manifest, and not even that with its own disk. The store is real."""

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

from provisioner.job.spec import JobSpec, RunSpec
from provisioner.jobs import collect as collecting
from provisioner.jobs import record
from provisioner.jobs.record import JobRecord
from provisioner.plan.layout import JobKeys

NOW = datetime(2026, 11, 23, 20, 0, 0, tzinfo=timezone.utc)
RECORD = JobRecord("j", JobSpec("j", RunSpec(("true",))), "local", NOW, NOW, NOW)
KEYS = JobKeys("p", "j")


def entry(path, data, **more):
    """A manifest's entry of a file."""
    digest = hashlib.sha256(data).hexdigest()
    return {
        "path": path,
        "size": len(data),
        "sha256": digest,
        "mtime": 1e9,
        "mode": "0640",
        "verified": "sha256",
        **more,
    }


@pytest.fixture
def finished(opened):
    """Make a finished task: `finished({key: bytes}, entries, **manifest)`."""

    def make(objects, entries, **more):
        for path, data in objects.items():
            opened.put(KEYS.outputs("0", 1) + path, data)
        manifest = {"version": 1, "entries": entries, "bundles": [], "more": [], **more}
        opened.put(KEYS.manifest("0", 1), json.dumps(manifest).encode())
        opened.put(KEYS.event("0", 1, "succeeded"), b"{}")

    return make


def collect(opened, folder):
    """Collect into a folder and forget the events."""
    return collecting.collect(opened, RECORD, folder, lambda _: None)


def test_files_parts_bundles_and_folders(opened, finished, tmp_path):
    """A plain file, a split one, two in a bundle and an empty directory come back, with their modes and times."""
    bundle = b"x" * 512 + b"one" + b"y" * 509 + b"two"
    parts = [b"a" * 70_000, b"b" * 10]
    listed = [{"size": len(part), "sha256": hashlib.sha256(part).hexdigest()} for part in parts]
    split = entry("big", b"".join(parts), parts=listed)
    objects = {"a/b.txt": b"data", "big.parts/00001": parts[0], "big.parts/00002": parts[1], ".bundles/1.tar": bundle}
    entries = [
        entry("a/b.txt", b"data"),
        split,
        entry("one", b"one", bundle=".bundles/1.tar", offset=512),
        entry("d/two", b"two", bundle=".bundles/1.tar", offset=1024),
        {"path": "empty/", "type": "dir", "mode": "0755"},
    ]
    finished(objects, entries, bundles=[{**entry(".bundles/1.tar", bundle)}])
    done = collect(opened, tmp_path)
    assert done.failed == {}
    assert (tmp_path / "a/b.txt").read_bytes() == b"data"
    assert (tmp_path / "big").read_bytes() == b"".join(parts)
    assert ((tmp_path / "one").read_bytes(), (tmp_path / "d/two").read_bytes()) == (b"one", b"two")
    assert (tmp_path / "empty").is_dir()
    assert (tmp_path / "a/b.txt").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "a/b.txt").stat().st_mtime == 1e9
    again = collect(opened, tmp_path)
    assert (again.bytes, again.already) == (0, 5)


@pytest.mark.parametrize(
    "path", ["../out", "/etc/x", "a/../../x", "a/./b", "a//b", "", ".", "..", "a%00b", "%2e%2e/x", "a/%2e%2e/%2e%2e/x"]
)
def test_no_path_leads_out(opened, finished, tmp_path, path):
    """A manifest that names a path outside of the folder gets nothing written anywhere."""
    finished({}, [entry(path, b"x")])
    inside = tmp_path / "a" / "inside"
    inside.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    done = collect(opened, inside)
    assert done.damaged
    assert len(done.failed) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_on_disk_is_not_followed_out(opened, finished, tmp_path):
    """A folder that is a link out of the target gets nothing through it; a file that is a link is replaced."""
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "target"
    target.mkdir()
    (target / "link").symlink_to(outside)
    (outside / "victim").write_text("mine")
    (target / "file").symlink_to(outside / "victim")
    finished({"link/x": b"x", "file": b"new"}, [entry("link/x", b"x"), entry("file", b"new")])
    done = collect(opened, target)
    assert list(done.failed) == ["link/x"]
    assert list(outside.iterdir()) == [outside / "victim"]
    assert (outside / "victim").read_text() == "mine"
    assert (target / "file").read_bytes() == b"new"
    assert not (target / "file").is_symlink()


def test_damage_is_noticed_and_stops_nothing_else(opened, finished, tmp_path):
    """An object that isn't what the VM sent, one that is missing and an entry of nonsense fail; the others arrive."""
    finished(
        {"bad": b"evil", "good": b"good"},
        [entry("bad", b"data"), entry("gone", b"x"), {"path": "odd"}, entry("good", b"good")],
    )
    done = collect(opened, tmp_path)
    assert sorted(done.failed) == ["bad", "gone", "odd"]
    assert done.damaged
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_names_of_any_kind_come_back(opened, finished, tmp_path):
    """Names with newlines, percent signs and bytes that are not UTF-8 are restored."""
    names = {"a%0Ab": "a\nb", "50%25": "50%", "%FF": "\udcff", "é ü": "é ü"}
    finished(dict.fromkeys(names, b"x"), [entry(name, b"x") for name in names])
    assert collect(opened, tmp_path).failed == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names.values())


def test_segments_are_read_and_verified(opened, finished, tmp_path):
    """A manifest in several segments is read whole, and a segment that was changed is refused."""
    segment = json.dumps([entry("one", b"1")]).encode()
    more = [{"name": "manifest/000001", "size": len(segment), "sha256": hashlib.sha256(segment).hexdigest()}]
    opened.put(KEYS.status("0", 1) + "manifest/000001", segment)
    finished({"one": b"1", "two": b"2"}, [entry("two", b"2")], more=more)
    assert sorted(collect(opened, tmp_path).files) == ["one", "two"]
    opened.put(KEYS.status("0", 1) + "manifest/000001", segment + b" ")
    with pytest.raises(collecting.Integrity):
        collect(opened, tmp_path)


def test_a_record_survives_the_bucket():
    """job.json gives the same record back."""
    assert record.parse(record.dump(RECORD), "here") == RECORD


def test_a_collected_file_is_whole_or_not_there(opened, finished, tmp_path):
    """Temporary names are removed when a file fails."""
    finished({"bad": b"evil"}, [entry("bad", b"data")])
    collect(opened, tmp_path)
    assert list(Path(tmp_path).iterdir()) == []
