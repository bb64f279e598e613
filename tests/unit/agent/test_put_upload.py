"""Uploads by presigned PUTs: what is kept beside the grant. The uploads themselves are in tests/contract."""

import os

from agent import grantfile
from agent.grant import Target
from agent.put_upload import PutUploader


def test_what_a_slot_of_the_log_holds_outlives_a_power_cut(tmp_path, monkeypatch):
    """It is on the disk before it takes the place of what was there: a torn file would lose the log's beginning."""
    synced, stored, fsync = [], [], os.fsync

    def note(fd):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grantfile.os, "fsync", note)
    fields = {"query": "", "slots": {"log/000001": "s"}}
    for number, text in ((1, b"one\n"), (2, b"two\n")):
        uploader = PutUploader(Target("http://127.0.0.1/", "p/", "{}", fields))
        monkeypatch.setattr(uploader, "put_whole", lambda name, data, _: stored.append((name, bytes(data))))
        uploader.post(f"log/{number:06}", text)
    assert stored == [("log/000001", b"one\n"), ("log/000001", b"one\ntwo\n")]
    assert synced == ["log.slot.new", "log.slot.new"]
    assert os.listdir() == ["log.slot"]
