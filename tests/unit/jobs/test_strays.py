"""Objects in a store that aren't Freepost's: whoever lists a job's keys, or the store's, passes over them."""

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest

from provisioner.jobs import gc
from provisioner.jobs.journal import OrderJournal
from provisioner.jobs.record import job_ids
from provisioner.plan.layout import JobKeys
from provisioner.plan.plan import launch_token
from provisioner.providers.base import Order

NOW = datetime(2026, 11, 23, 20, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize("stray", ["note", "note.txt", "0", "a/b", "/"])
def test_a_stray_object_is_no_order(opened, stray):
    """A launch that goes on reads its own orders, and no object that somebody else put beside them."""
    keys = JobKeys("p", "j")
    opened.put(keys.launch_root + stray, b"not ours")
    journal = OrderJournal(opened, keys)
    order = Order("j", ("0",), 1, launch_token("j", "0", 1), NOW, b"#cloud-config\n")
    journal.note(order, "", NOW)
    assert [entry.order.token for entry in journal.entries()] == [order.token]


@pytest.mark.parametrize("content", [b"", b"[]", b'"text"', b"1", b"{}", b"\xff"])
def test_a_stray_object_among_the_marks_belongs_to_no_job(opened, content):
    """It can go, as a mark whose job was never recorded, and the search goes on."""
    opened.put("p/.launching/stray", content)
    later = datetime.now(timezone.utc) + timedelta(days=1)
    assert [(each.kind, each.job) for each in gc.Finder(opened, {}, later).find({})] == [("mark", "?")]


def test_folders_without_a_name_or_a_record_are_no_jobs(opened):
    """They are neither listed as jobs nor told of as unreadable records."""
    opened.put("p/.hidden/stray", b"")
    opened.put("p/photos/stray", b"")
    assert job_ids(opened) == ["photos"]
    assert gc.read_records(opened) == ({}, [])
    # Stores of AWS's kind have folders without a name; the embedded one makes p/stray of p//stray.
    assert job_ids(SimpleNamespace(prefix="p", folders=lambda _: ["", "j"])) == ["j"]
