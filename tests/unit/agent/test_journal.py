"""The journal: torn lines, other grants, several writers; and the manifest that is made from it."""

import json
import os
import threading

from agent.journal import SEGMENT, Journal
from tests.support.grants import checked


def entry(path, **more):
    return {"path": path, "size": 1, "sha256": "00", "mtime": 1.5, "mode": "0644", "verified": "sha256", **more}


def test_what_was_added_is_there_again(tmp_path):
    """A journal that is opened anew knows each object, the last word about each."""
    journal = Journal(str(tmp_path / "j"), "p/")
    journal.add(entry("a"), entry("b"))
    journal.add(entry("a", size=2))
    again = Journal(str(tmp_path / "j"), "p/")
    assert {path: json.loads(line) for path, line in again.files.items()} == {"a": entry("a", size=2), "b": entry("b")}


def test_a_torn_line_costs_that_line_alone(tmp_path):
    """A line that a crash cut short is skipped, and what is added after it is whole."""
    journal = Journal(str(tmp_path / "j"), "p/")
    journal.add(entry("a"), entry("b"))
    size = (tmp_path / "j").stat().st_size
    os.truncate(tmp_path / "j", size - 20)
    Journal(str(tmp_path / "j"), "p/").add(entry("c"))
    assert sorted(Journal(str(tmp_path / "j"), "p/").files) == ["a", "c"]


def test_the_journal_of_another_grant_is_begun_anew(tmp_path):
    """What was stored below another prefix says nothing about this one."""
    Journal(str(tmp_path / "j"), "p/1/").add(entry("a"))
    assert Journal(str(tmp_path / "j"), "p/2/").files == {}
    assert Journal(str(tmp_path / "j"), "p/1/").files == {}


def test_the_journal_is_for_its_owner_alone(tmp_path):
    """File names may be private: the journal has mode 0600."""
    Journal(str(tmp_path / "j"), "p/")
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o600


def test_several_writers_share_a_journal(tmp_path):
    """Lines that are added at once by several journals on one file all arrive, and refresh sees them."""
    first, second = (Journal(str(tmp_path / "j"), "p/") for _ in range(2))

    def write(journal, letter):
        for number in range(200):
            journal.add(entry(f"{letter}{number}"))

    threads = [threading.Thread(target=write, args=pair) for pair in ((first, "a"), (second, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first.refresh()
    second.refresh()
    assert first.files == second.files
    assert len(first.files) == 400


def part(number, **more):
    return entry("big", part=number, of=3, **{"step": 1, **more})


def test_parts_of_one_version_belong_together(tmp_path):
    """Parts of a file that changed, or that was cut otherwise, don't mix with those of its last version."""
    journal = Journal(str(tmp_path / "j"), "p/")
    journal.add(part(1), part(2))
    journal.add(part(3, mtime=2.5))
    journal.refresh()
    assert list(journal.files["big"]["parts"]) == [3]
    journal.add(part(1, mtime=2.5, step=2))
    journal.refresh()
    assert list(journal.files["big"]["parts"]) == [1]


def manifest_of(journal):
    return dict(journal.manifest(job="j", task="0", attempt=1, complete=True))


def test_a_file_whose_parts_are_missing_is_not_listed(tmp_path):
    """The manifest has a split file only when all its parts are stored, in the order of their numbers."""
    journal = Journal(str(tmp_path / "j"), "p/")
    journal.add(part(3, sha256="3"), part(1, sha256="1"), entry("a"))
    head = json.loads(manifest_of(journal)["manifest.json"])
    assert [item["path"] for item in head["entries"]] == ["a"]
    journal.add(part(2, sha256="2"))
    head = json.loads(manifest_of(journal)["manifest.json"])
    big = next(item for item in head["entries"] if item["path"] == "big")
    assert (big["size"], [item["sha256"] for item in big["parts"]]) == (3, ["1", "2", "3"])
    assert (head["files"], head["bytes"]) == (2, 4)


def test_a_long_list_goes_into_segments(tmp_path):
    """More entries than fit into one object go into segments that the head names with size and sha256, in order."""
    journal = Journal(str(tmp_path / "j"), "p/")
    journal.add(*(entry(f"{number:06d}" + "x" * 100) for number in range(12_000)))
    objects = manifest_of(journal)
    assert list(objects)[-1] == "manifest.json"
    assert all(len(data) < SEGMENT + 1000 for data in objects.values())
    head = json.loads(objects["manifest.json"])
    entries = []
    for piece in head["more"]:
        entries += json.loads(checked(objects[piece["name"]], piece))
    entries += head["entries"]
    assert [item["path"] for item in entries] == [f"{number:06d}" + "x" * 100 for number in range(12_000)]
    assert head["files"] == 12_000


def test_only_bundles_in_use_are_listed(tmp_path):
    """A bundle of which no file is the last version is left out of the manifest."""
    journal = Journal(str(tmp_path / "j"), "p/")
    journal.add({"object": ".bundles/1.tar", "size": 9, "sha256": "1"}, entry("a", bundle=".bundles/1.tar", offset=512))
    journal.add({"object": ".bundles/2.tar", "size": 9, "sha256": "2"}, entry("a", bundle=".bundles/2.tar", offset=512))
    head = json.loads(manifest_of(journal)["manifest.json"])
    assert head["bundles"] == [{"path": ".bundles/2.tar", "size": 9, "sha256": "2"}]
