"""The agent in two stages, on whole machines: the core from EC2's user-data, the rest from the bucket, behind TLS.

What each job pushes by `agent push --bundle`, as its own user, can only come home when both stages work.
"""

from __future__ import annotations

import gzip
import json
import os
import re

import pytest

from agent.grant import instant
from provisioner.embedded import server
from provisioner.errors import MissingDependency
from provisioner.packing import agent_archive
from provisioner.packing.agent_archive import pack
from tests.e2e.rendered import inside
from tests.e2e.stages import FAKETIME, LIBFAKETIME, NAME, NO_DNS, Stages, clock, make_certificate, temporary
from tests.support import guests, moto
from tests.support import rgw as gateways

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

FILES = 120
# The name of the agent comes from the shell, so that no text of the job holds it.
SCRIPT = f"""
a=$(echo agent); id -un
mkdir many; for n in $(seq {FILES}); do echo "line $n" >many/$n; done
$a push --bundle many || exit 9
"""
PUSHED = {f"many/{number}": f"line {number}\n".encode() for number in range(1, FILES + 1)}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A folder with the store's certificate."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def rgw(certificate, used):
    """A Ceph Object Gateway that speaks TLS."""
    if gateways.missing():
        pytest.skip(gateways.missing())
    with gateways.running(certificate) as running:
        used["Ceph RGW"] = running.version
        yield running


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """(host, port) of an EC2."""
    with moto.running(tmp_path_factory.mktemp("moto")) as where:
        yield where


@pytest.fixture
def stages(rgw, cloud, certificate, provision, bucket, tmp_path, monkeypatch, http):
    """Launch jobs with temporary credentials, and boot machines; these are ended after the test."""
    try:
        guests.KINDS["machine"].make(tmp_path, "")._check(guests.built("bookworm"))
    except MissingDependency as missing:
        pytest.skip(f"{missing.message} {missing.hint}")
    http.post("http://{}:{}/moto-api/reset".format(*cloud), timeout=20).raise_for_status()
    with server.connect(rgw) as client:
        client.create_bucket(Bucket=bucket)
    own = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    trust = dict.fromkeys(("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"), str(certificate / "cert.pem"))
    for name, value in {**own, **trust, **temporary(rgw)}.items():
        monkeypatch.setenv(name, value)
    made = Stages(rgw, cloud, provision, bucket, tmp_path, certificate, monkeypatch, [])
    yield made
    for provider, instance in made.machines:
        provider.terminate([instance])
    assert guests.left_behind(tmp_path / "machines", [instance.id for _, instance in made.machines]) == []


def job(timeout="5m", more="", **keys):
    """What a job.yaml says besides the places: the script, and `more` of it."""
    return {"run": {"command": SCRIPT + more, "timeout": timeout}, **keys}


def test_a_job_that_pushes(stages):
    """A job's own `agent push --bundle` brings its files home from a spot VM, by a session's signature over TLS."""
    launched = stages.launch(stages.document(**job()))
    document = gzip.decompress(stages.user_data()).decode()
    assert os.environ["AWS_SESSION_TOKEN"] in document
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in document
    machine = stages.boot(launched)
    machine.end()
    assert machine.collected() == PUSHED
    assert len(machine.posted("manifest.json")["bundles"]) > 0
    assert machine.posted("succeeded")["warning"] is None
    assert stages.told("logs", machine.job).startswith("job\n")


def test_no_dns_at_first(stages):
    """A VM whose store has no address for its agent's first 40 s asks on, and loses nothing."""
    launched = stages.launch(stages.document(**job()), NAME)
    machine = stages.boot(launched, NO_DNS.format(seconds=40), "trixie")
    machine.end(180)
    said = dict(re.findall(r"CLOUD: (an?|no) address at (\d+)", machine.console))
    assert int(said["an"]) - int(said["no"]) >= 40
    booted = machine.posted("booted")
    assert instant(booted["time"]) >= int(said["an"])
    assert booted["warning"] is None
    assert machine.collected() == PUSHED


HOURS = 3 * 3600
BUDGET = "OnActiveUSec=21min "  # ten minutes for the boot, ten for the job, two graces


@pytest.mark.parametrize(
    ("offset", "after", "timeout"),
    [("+3h", 20, "10m"), ("+3h", 0, "10m"), ("+3h", 0, "4h"), ("-3h", 20, "10m"), ("-3h", 0, "10m")],
    ids=["ahead-set-right", "ahead", "ahead-of-a-long-grant", "behind-set-right", "behind"],
)
def test_a_clock_that_is_off(stages, offset, after, timeout):
    """A clock hours off at boot, set right while the job runs or never, costs neither an output nor the job's time.

    The store's clock decides, whether the VM's takes the grant for expired or not. Nobody renews it.
    """
    if not LIBFAKETIME.exists():
        pytest.skip("there is no libfaketime: apt-get install libfaketime")
    more = "until [ -e /run/set-right ]; do sleep 0.2; done\n" if after else ""
    more += "echo made >late; touch running; until [ -e seen ]; do sleep 0.1; done"
    document = stages.document(**job(timeout, more, outputs=["late"]))
    document["run"]["env"] = FAKETIME
    if timeout == "4h":
        del document["renew"]  # so that the grant outlives the three hours
    machine = stages.boot(stages.launch(document), clock(offset, after))
    timer = inside(machine, "systemctl show -p TimersMonotonic --value run-*.timer; touch /srv/job/seen")
    machine.end()
    assert machine.collected() == {**PUSHED, "late": b"made\n"}
    off = HOURS if offset == "+3h" else -HOURS
    launched, booted, last = (machine.posted(event) for event in ("launched", "booted", "succeeded"))
    assert abs(instant(booted["time"]) - instant(launched["time"]) - off) < 100
    assert abs(instant(last["time"]) - instant(launched["time"]) - (0 if after else off)) < 200
    assert last["warning"] is None
    if timeout == "10m":
        assert BUDGET in timer


# What whoever may write to the bucket would have root run, and how a job without `agent push` goes on.
EVIL = "open('/srv/ran', 'w')\n"
ALONE = f"""
mkdir many; for n in $(seq {FILES}); do echo "line $n" >many/$n; done
agent push --bundle many; echo $? >code; ls /srv >srv
"""
REFUSED = "the rest of the agent can't be had: what lies in the bucket is not what this VM was launched with"


def evil(size):
    """An archive of so many bytes, that can be unpacked, of modules that tell that they were run."""
    return pack(dict.fromkeys(agent_archive.remaining(), EVIL)).ljust(size, b"\0")


def test_another_archive(stages):
    """An archive that was exchanged for one of the same size is refused before a byte of it runs; the job goes on."""
    outputs = [{"glob": "many/**", "bundle": True}, "code", "srv"]
    launched = stages.launch(stages.document(run={"command": ALONE, "timeout": "5m"}, outputs=outputs))
    data = evil(stages.store.size(stages.archive))
    stages.store.put(stages.archive, data)
    assert stages.store.size(stages.archive) == len(data) == len(agent_archive.rest())
    machine = stages.boot(launched)
    machine.end()
    assert REFUSED in machine.console
    for event in ("booted", "succeeded"):
        assert machine.posted(event)["warning"] == REFUSED
    (row,) = json.loads(stages.told("status", machine.job, "--json"))["tasks"]
    assert (row["status"], row["warning"]) == ("succeeded", REFUSED)
    assert REFUSED in stages.told("status", machine.job)
    assert "agent: this VM has only what runs its job" in stages.told("logs", machine.job)
    assert machine.collected() == {**PUSHED, "code": b"2\n", "srv": b"job\n"}


@pytest.mark.parametrize("how", ["reboot", "power cut"])
def test_it_boots_again(stages, how):
    """A VM that boots again in mid-job has the whole agent from its disk: the archive in the bucket is gone by then."""
    more = "touch running; exec sleep 200"
    document = stages.document(**job(more=more, outputs=[{"glob": "out/**", "bundle": True}]))
    document["run"]["command"] = "mkdir out; echo 1 >out/a; echo 2 >out/b\n" + document["run"]["command"]
    machine = stages.boot(stages.launch(document))
    inside(machine, "true")
    stages.store.delete([stages.archive])
    if how == "reboot":
        inside(machine, "systemctl reboot")
    else:
        machine.provider.cut_power([machine.instance])
        machine.provider.boot_again(machine.instance)
    machine.end()
    last = machine.posted("interrupted")
    assert last["warning"] is None
    assert last["reason"] == "interrupted" + (" by signal 15" if how == "reboot" else ": the VM restarted")
    assert machine.collected(6) == {**PUSHED, "out/a": b"1\n", "out/b": b"2\n"}
    bundled = [entry for entry in machine.posted("manifest.json")["entries"] if "bundle" in entry]
    assert len(bundled) == FILES + 2
