"""After a whole job: no log of the guest, of cloud-init or of the console holds what only the agent may know."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from urllib.parse import urlsplit

import pytest

from tests.e2e.rendered import ended, inside, told

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

TEXT = """
name: quiet
run:
  command: |
    touch running; until [ -e go ]; do sleep 0.1; done
    mkdir out; cp data.txt out/copy
  timeout: 2m
inputs: [data.txt]
outputs: [out/**]
"""
# In a mount namespace of its own, so that nothing stays mounted whatever happens.
OPEN = 'mount -o loop,ro "$1" "$2"; cp -a "$2/upper/var/log" "$2/upper/var/lib/cloud" "$2/upper/var/lib/freepost" "$3"'


def spoiled(document):
    """A document whose signature for outputs is not the one that was made: the store refuses them, and says why."""
    return re.sub('("x-amz-signature": ?")....', r"\g<1>0bad", document, count=1)


@pytest.mark.parametrize(
    ("suite", "end"),
    [("bullseye", "succeeded"), ("bookworm", "succeeded"), ("trixie", "succeeded"), ("bookworm", "failed")],
)
def test_no_log_holds_a_secret(provision, machine, tmp_path, suite, end):
    """Neither policy, signature nor presigned query is in a log, even of uploads refused; cloud-init is content."""
    (tmp_path / "data.txt").write_text("x")
    vm = machine(TEXT, edit=spoiled if end == "failed" else str, image=suite, keep_disk=True)
    # The journal is kept in memory; from here on it is on the disk, with all that it had before.
    inside(vm, "mkdir -p /var/log/journal; journalctl --flush; touch /srv/job/go")
    ended(vm)
    last = told(provision, vm)
    assert last["status"] == end
    assert bool(last["upload"]["failed"]) is (end == "failed")
    home = vm.provider._machine(vm.instance.id)
    for name in ("mnt", "kept"):
        (tmp_path / name).mkdir()
    words = ["unshare", "--mount", "sh", "-euc", OPEN, "-", home.disk, tmp_path / "mnt", tmp_path / "kept"]
    subprocess.run(words, check=True, timeout=60)

    secrets = set()
    grant = json.loads((tmp_path / "kept/freepost/grant.json").read_text())
    for target in (grant["outputs"], grant["status"]):
        fields = target["fields"]
        policy = target["policy"]
        secrets |= {fields["x-amz-signature"], policy, base64.b64encode(policy.encode()).decode()}
    for item in grant["inputs"]:
        query = urlsplit(item["url"]).query
        secrets |= {query, re.search("X-Amz-Signature=([0-9a-f]+)", query)[1]}
    assert len(secrets) == 8

    logs = {path: path.read_bytes() for path in (tmp_path / "kept/log").rglob("*") if path.is_file()}
    words = ["journalctl", "--all", "--output=export", "--directory", tmp_path / "kept/log/journal"]
    logs["journal"] = subprocess.run(words, check=True, capture_output=True, timeout=60).stdout
    logs["last event"] = json.dumps(last).encode()
    logs["console"] = vm.provider.console(vm.instance)
    logs["supervisor"] = (home.path / "log").read_bytes()
    assert b"freepost.service" in logs["journal"]
    assert [(name, text) for name, log in logs.items() for text in secrets if text.encode() in log] == []

    log = (tmp_path / "kept/log/cloud-init.log").read_text()
    assert "modules:final" in log or "modules-final" in log
    assert [line for line in log.splitlines() if re.search(r"\[?(WARNING|ERROR|CRITICAL)\b", line)] == []
    result = json.loads((tmp_path / "kept/cloud/data/result.json").read_text())["v1"]
    assert result["errors"] == []
    assert not result.get("recoverable_errors")
