"""Whole jobs on whole machines: job.yaml to files on disk, by real cloud-init, real systemd and the real store."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path

import pytest

from provisioner.errors import MissingDependency
from provisioner.job.load import load
from tests.support import guests

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

SUITES = ("bookworm", "trixie", "bullseye")

# What the job's user tries in the guest, once a listener really stands at both addresses of the metadata service; and
# what one of its subuids does, who it is in a user namespace.
INTRUDER = """
import os, socket, sys, time
def reach(address, family):
    with socket.socket(family) as link:
        link.settimeout(5)
        try:
            link.connect((address, 80))
            return "reached"
        except OSError as error:
            return type(error).__name__
def read(path):
    try:
        with open(path, "rb") as file:
            return len(file.read())
    except OSError as error:
        return type(error).__name__
if len(sys.argv) == 1:
    open("/srv/job/begun", "w")
    while not os.path.exists("/srv/job/listening"):
        time.sleep(0.1)
print(os.getuid() > 0, reach("169.254.169.254", socket.AF_INET), reach("fd00:ec2::254", socket.AF_INET6), flush=True)
for path in ("/run/freepost/grant.json", "/var/lib/freepost/grant.json", "/var/lib/cloud/instance/user-data.txt"):
    print(read(path))
"""
# What a job asks of the agent's socket that `agent push` never would, and what it is told.
FORGER = """
import array, json, os, socket
def forge(name, size, path, flags):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.connect("/run/freepost.sock")
        for message in ({"options": {}}, {"items": [[name, size, 0, 0o644]]}, {"go": 1}):
            link.send(json.dumps(message).encode())
        while True:
            message = json.loads(link.recv(1 << 16).decode())
            if "say" in message:
                print(message["say"][1].split("\\n")[0]) if name in message["say"][1] else None
            elif "open" in message:
                files = array.array("i", [os.open(path, flags)] if path else [])
                link.sendmsg([b"{}"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)] if path else [])
            else:
                return print(message["code"])
open("four", "w").write("four")
forge("shadow", 1, None, 0)
forge("shadow", 1, "/etc/shadow", os.O_PATH)
forge("../up", 4, "four", os.O_RDONLY)
forge("four", 10 << 30, "four", os.O_RDONLY)
"""
METADATA = """
ip netns add imds && ip link add v0 type veth peer name v1 netns imds
ip addr add 169.254.169.1/24 dev v0; ip -6 addr add fd00:ec2::1/64 dev v0 nodad; ip link set v0 up
ip netns exec imds sh -c 'ip addr add 169.254.169.254/24 dev v1; ip -6 addr add fd00:ec2::254/64 dev v1 nodad
ip link set v1 up; ip link set lo up; setsid python3 -m http.server 80 --bind :: >/dev/null 2>&1 &'
"""


def needed(provider, suite, tmp_path):
    """Build the image of a suite, or skip with the reason."""
    try:
        guests.KINDS[provider].make(tmp_path, "")._check(guests.built(suite))
    except MissingDependency as missing:
        pytest.skip(f"{missing.message} {missing.hint}")


def launch(provision, tmp_path, text, *words, provider="machine", suite="bookworm", **files):
    """Launch a job on a machine and collect it. Return the command's outcome and the job's id."""
    needed(provider, suite, tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    path = tmp_path / "job.yaml"
    path.write_text(text)
    load(path)  # a fault of the test's own is told here
    words = ["--set", f"vm.image={suite}", *words, "--collect", tmp_path / "r", "--json"]
    done = provision("launch", path, "--provider", provider, *words)
    job = next(line["job"] for line in map(json.loads, done.out.splitlines()) if line["event"] == "job")
    return done, job


@pytest.mark.parametrize("suite", SUITES)
def test_a_job_on_each_suite(provision, tmp_path, suite):
    """The user-data boots under the suite's own cloud-init, which ends done and silent; the job's files come home."""
    text = """
name: e2e
run:
  command: |
    id -un
    cloud-init status --wait --long
    mkdir out; echo made >out/file; printf x >'out/a b'
  timeout: 3m
outputs: [out/**]
"""
    done, job = launch(provision, tmp_path, text, suite=suite)
    assert done.code == 0, done.err
    assert (tmp_path / "r/out/file").read_text() == "made\n"
    assert (tmp_path / "r/out/a b").read_text() == "x"
    log = provision("logs", job).out
    assert log.startswith("job\n")
    assert "status: done" in log
    assert "degraded" not in log
    assert "errors:\n" not in log  # an empty list or mapping is on the line itself
    status = json.loads(provision("status", job, "--json").out)
    assert status["tasks"][0]["status"] == "succeeded"


def guest_leader(folder, sign="srv/job/intruder.py", alive=lambda: True):
    """The pid of the guest's systemd, once it has the file `sign`; `alive` tells whether that can still come."""
    while True:
        lives = alive()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes()
                if words.startswith(b"systemd-nspawn") and str(folder).encode() in words:
                    pid = (path / "task" / path.name / "children").read_text().split()[0]
                    if Path(f"/proc/{pid}/root/{sign}").exists():
                        return pid
            except (OSError, IndexError):
                continue
        assert lives, f"it ended without {sign}"
        time.sleep(0.1)  # another process's start has no event


def stand_in(folder):
    """Put a listener at the metadata service's addresses, in a network beside the guest's own; root reaches it."""
    enter = ["nsenter", "-t", guest_leader(folder), "-m", "-p", "-n", "-i", "sh", "-uc"]
    probe = "import socket; [socket.create_connection((a, 80), 9) for a in ('169.254.169.254', 'fd00:ec2::254')]"
    wait = f'until python3 -c "{probe}"; do sleep 0.2; done; '
    wait += "until [ -e /srv/job/begun ]; do sleep 0.2; done; "  # which is when the fence stands
    wait += "for id in 100000 999; do setpriv --reuid $id --regid $id --clear-groups python3 /srv/job/intruder.py $id; "
    wait += "done >/srv/job/others; touch /srv/job/listening"
    subprocess.run([*enter, METADATA + wait], check=True, timeout=90, stderr=subprocess.DEVNULL)


def test_the_jobs_user_reaches_no_secret(provision, state_folder, tmp_path):
    """The grant, the user-data and the metadata service, over IPv4 and IPv6, are closed to the job's user.

    So is the metadata service to its subuids; a service of the system still reaches it.
    """
    text = "name: intruder\nrun: {command: 'python3 intruder.py; cat others', files: [intruder.py], timeout: 2m}\n"
    (tmp_path / "intruder.py").write_text(INTRUDER)
    needed("machine", "bookworm", tmp_path)
    threading.Thread(target=stand_in, args=(state_folder,), daemon=True).start()
    done, job = launch(provision, tmp_path, text)
    assert done.code == 0, done.err
    said = provision("logs", job).out.splitlines()
    refused = ["PermissionError"] * 3
    fenced = "True PermissionError PermissionError"
    assert said == [fenced, *refused, fenced, *refused, "True reached reached", *refused]


def test_the_jobs_user_pushes_without_the_grant(provision, tmp_path):
    """A job that can't read the grant gets files home, bundles and streams too, and its forged requests are refused."""
    text = """
name: pusher
run:
  command: |
    cat /run/freepost/grant.json 2>/dev/null || echo "unreadable for $(id -un)"
    stat -c '%U %a' /run/freepost.sock
    mkdir made && echo one >made/one && echo two >'made/t w o'
    agent push made 2>/dev/null; echo $?
    agent push --bundle --as packed made 2>/dev/null; echo $?
    echo three | agent push - --as three 2>/dev/null; echo $?
    agent push absent 2>&1; echo $?
    agent pull 2>&1; agent check made 2>&1; agent --help | head -1 | cut -c-17
    python3 forger.py
  files: [forger.py]
  timeout: 2m
outputs: []
"""
    (tmp_path / "forger.py").write_text(FORGER)
    done, job = launch(provision, tmp_path, text)
    assert done.code == 0, done.err + provision("logs", job).out
    home = {
        str(path.relative_to(tmp_path / "r")): path.read_text()
        for path in (tmp_path / "r").rglob("*")
        if path.is_file()
    }
    assert home == {
        "made/one": "one\n",
        "made/t w o": "two\n",
        "packed/one": "one\n",
        "packed/t w o": "two\n",
        "three": "three\n",
    }
    assert provision("logs", job).out.splitlines() == [
        "unreadable for job",
        "job 600",
        *("0", "0", "0"),
        "absent: no such file",
        "0 files with 0 bytes are stored, 0 of them sent now; 1 failed",
        "2",
        *["agent: only root may read the grant here; push does without, and inputs are there already"] * 2,
        "usage: agent push",
        *("shadow: no open file came with it", "5"),
        *("shadow: it was not opened for reading", "5"),
        *("../up: its name must be a relative path, without .., written as keys are", "2"),
        *("four: it is said to have 10737418240 bytes, and has 4", "5"),
    ]


def test_a_job_that_forks_without_end_ends(provision, tmp_path):
    """Children that ignore SIGTERM end with the job's scope, and what was printed is uploaded."""
    text = """
name: forks
run:
  command: |
    echo begun
    for i in 1 2 3 4 5; do (trap '' TERM; setsid sh -c "trap '' TERM; while :; do sleep 1; done") & done
    trap '' TERM
    while :; do sleep 1; done
  timeout: 3s
  grace: 2s
"""
    done, job = launch(provision, tmp_path, text)
    assert done.code == 1
    assert "timeout of 3 s" in done.out
    assert provision("logs", job).out == "begun\n"


def test_a_job_in_a_real_vm(provision, tmp_path):
    """QEMU, from power-on to power-off: KVM where it works, emulation otherwise."""
    text = "name: vm\nvm: {boot_budget: 15m}\nrun: {command: 'uname -a >kernel', timeout: 3m}\noutputs: [kernel]\n"
    done, _ = launch(provision, tmp_path, text, provider="qemu")
    assert done.code == 0, done.err
    assert "Linux" in (tmp_path / "r/kernel").read_text()
