"""The audit's list of places, held against a booted machine: every file that a secret of the user-data reached."""

from __future__ import annotations

import fnmatch

import pytest

from provisioner.errors import MissingDependency
from provisioner.plan.request import LaunchRequest, make_plan
from provisioner.providers.base import Phase
from provisioner.userdata import audit
from tests.support import guests
from tests.unit.userdata.test_render import BUCKET, NOW, JobSpec, RunSpec

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SECRET = "the-secret-of-this-" + "document"
# Half of the word is made by the shell, so that this search does not find itself in what cloud-init logs of it.
SEARCH = """
for f in $(grep -rlsF "the-secret-of-this-$(echo document)" /etc /home /opt /root /run /srv /tmp /usr/local /var); do
  stat -c 'FOUND %n %a %u' "$f"
done
"""


@pytest.mark.parametrize("suite", ["bullseye", "bookworm", "trixie"])
def test_no_place_is_missing(tmp_path, suite):
    """Each file of the guest that holds the secret is one that the audit lists, root's, and closed to everyone else."""
    provider = guests.KINDS["machine"].make(tmp_path, "")
    try:
        provider._check(guests.built(suite))
    except MissingDependency as missing:
        pytest.skip(f"{missing.message} {missing.hint}")
    files = [
        {"path": "/root/script", "permissions": "0700", "content": SEARCH},
        {"path": "/var/lib/freepost/grant.json", "permissions": "0400", "content": SECRET},
    ]
    before = ["install -d -m 0700 /var/lib/freepost; ln -sfn /var/lib/freepost /run/freepost"]
    user_data = guests.cloud_config("", write_files=files, bootcmd=before)
    (instance,) = provider.launch(guests.order(user_data, f"audit-{suite}", image=suite))
    try:
        guests.wait_for(provider, instance, Phase.GONE, 90)
        said = provider.console(instance).decode("utf-8", "replace").replace("\r", "")
    finally:
        provider.terminate([instance])
    found = [line.split()[1:] for line in said.splitlines() if line.startswith("FOUND ")]
    plan = make_plan(LaunchRequest(
        JobSpec("x", RunSpec(("true",))), job="x", bucket=BUCKET, prefix="p", provider="machine",
        user_data_limit=1 << 20, now=NOW,
    ))  # fmt: skip
    # cloud-init's `instance` is a link to the folder below `instances`; /run/freepost is one to /var/lib/freepost.
    listed = [place.where.replace("/instance/", "/instances/*/") for place in audit.copies_in_guest(plan, "machine")]
    listed += ["/var/lib/freepost/grant.json"]
    assert found, said[-2000:]
    assert [path for path, _, _ in found if not any(fnmatch.fnmatch(path, place) for place in listed)] == []
    assert [line for line in found if line[1] not in {"600", "400"} or line[2] != "0"] == []
