"""Whole machines under real cloud-init: each suite boots, the network ends where it should, no death leaves a trace.

The user-data here is plain; what Freepost renders is tested in the other files of this folder.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from provisioner.errors import MissingDependency, NotFound, Refused
from provisioner.providers.base import Phase
from provisioner.providers.guest.supervisor import OVERTIME_SECONDS
from provisioner.providers.nspawn import MachineProvider
from tests.support import guests

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

SUITES = ("bullseye", "bookworm", "trixie")

# Tries one connection a line of its arguments, and prints what came of it.
CONNECT = """
import socket, sys
for where in sys.argv[1:]:
    host, port = where.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            print(where, "answered", connection.recv(100).decode(), flush=True)
    except OSError as error:
        print(where, "failed", type(error).__name__, flush=True)
"""


@contextmanager
def listener(address: str = "127.0.0.1"):
    """A server of the host that says `here` to whoever connects; its port."""
    with socket.create_server((address, 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"here")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def boot(tmp_path):
    """Boot machines: a function of (provider's name, suite, endpoint, user-data, options), ended after the test."""
    booted = []

    def boot(name, suite, user_data, endpoint="", **options):
        kind = guests.KINDS[name]
        provider = kind.make(tmp_path, endpoint)
        try:
            provider._check(guests.built(suite))
        except MissingDependency as missing:
            pytest.skip(f"{missing.message} {missing.hint}")
        token = f"boot{len(booted)}"
        (instance,) = provider.launch(guests.order(user_data, token, image=suite, **options))
        booted.append((provider, instance))
        return provider, instance

    yield boot
    for provider, instance in booted:
        provider.terminate([instance])
    assert guests.left_behind(tmp_path, [instance.id for _, instance in booted]) == []


def end_of(provider, instance):
    """Wait for a machine to power off, and return its console."""
    state = guests.wait_for(provider, instance, Phase.GONE, guests.KINDS[provider.name].patience)
    said = provider.console(instance).decode("utf-8", "replace").replace("\r", "")
    assert state.reason == "powered off", said[-2000:]
    return said


# Runs after cloud-init has ended; within runcmd it would still be running.
VERDICT = """[Unit]
After=cloud-final.service
[Service]
Type=oneshot
StandardOutput=tty
ExecStart=/bin/sh -c 'cloud-init status --long; systemctl --failed --no-legend; echo VERDICT'
ExecStopPost=systemctl --no-block poweroff
"""


@pytest.mark.parametrize("suite", SUITES)
def test_cloud_init_is_content(boot, suite, capsys):
    """Each suite boots to the end of cloud-init without a warning, an error or a failed unit."""
    started = time.monotonic()
    provider, instance = boot(
        "machine",
        suite,
        guests.cloud_config(
            "",
            write_files=[{"path": "/etc/systemd/system/verdict.service", "content": VERDICT}],
            runcmd=[["systemctl", "start", "--no-block", "verdict.service"]],
        ),
    )
    said = end_of(provider, instance)
    with capsys.disabled():
        sys.stdout.write(f"\n{suite}: launch to power-off in {time.monotonic() - started:.1f} s\n")
    verdict = said[said.index("status: ") : said.index("VERDICT")]
    assert verdict.startswith("status: done"), verdict
    assert "errors: []" in verdict or "errors" not in verdict, verdict
    assert "recoverable_errors: {}" in verdict or "recoverable_errors" not in verdict, verdict
    assert ".service" not in verdict, verdict
    assert "WARNING" not in said, [line for line in said.splitlines() if "WARNING" in line]


@pytest.mark.parametrize("name", ["machine", "qemu"])
def test_reaches_the_store_and_nothing_else_of_the_host(boot, name):
    """The port of the store answers at 10.0.2.2; another port of the host's loopback, really listening, doesn't."""
    with listener() as store, listener() as other:
        endpoint = f"http://127.0.0.1:{store}"
        script = f"cat >/root/connect.py <<'END'\n{CONNECT}\nEND\npython3 /root/connect.py 10.0.2.2:{store} "
        script += f"10.0.2.2:{other} 127.0.0.1:{other} 10.0.3.2:{other} 10.0.3.100:{other} 169.254.169.254:80"
        provider, instance = boot(name, "bookworm", guests.cloud_config(script), endpoint)
        said = end_of(provider, instance)
        assert provider.guest_url(f"{endpoint}/bucket") == f"http://10.0.2.2:{store}/bucket"
    assert f"10.0.2.2:{store} answered here" in said
    assert len(re.findall(r"^[0-9.]+:[0-9]+ answered ", said, re.MULTILINE)) == 1
    assert len(re.findall(r"^[0-9.]+:[0-9]+ failed ", said, re.MULTILINE)) == 5


def test_an_address_of_the_host_is_out_of_reach(tmp_path):
    """A server on the host's own address, as a LAN would see it, answers the host and not the guest.

    The host is a network namespace of the test's own, so that nothing is opened to the real network.
    """
    guests.built("bookworm")
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "tests.e2e.test_boot", str(tmp_path)],
        capture_output=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    said = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, said + done.stderr.decode()
    assert "192.0.2.77:" in said
    assert " answered " not in said


def test_boots_again_when_it_asks_for_it(boot):
    """A guest that reboots comes back on the same disk, under the same id, and cloud-init doesn't start over."""
    script = "echo first boot\nsystemctl enable back.service\nsystemctl --no-block reboot\nsleep 60"
    back = "[Service]\nStandardOutput=tty\nExecStart=/bin/echo second boot\n"
    back += "ExecStopPost=systemctl --no-block poweroff\n[Install]\nWantedBy=multi-user.target\n"
    files = [
        {"path": "/root/script", "permissions": "0700", "content": script},
        {"path": "/etc/systemd/system/back.service", "content": back},
    ]
    provider, instance = boot("machine", "bookworm", guests.cloud_config("", write_files=files))
    said = end_of(provider, instance)
    assert said.count("first boot") == 1
    assert said.count("second boot") == 1


@pytest.mark.parametrize("name", ["machine", pytest.param("qemu", marks=pytest.mark.vm)])
def test_power_cut(boot, name):
    """Power goes, the disk stays: booted again, what was synced is there, and runcmd doesn't run a second time."""
    script = "echo kept >/root/kept; sync; echo written; exec sleep 600"
    back = "[Unit]\nConditionPathExists=/root/kept\n[Service]\nStandardOutput=tty\nExecStart=/bin/cat /root/kept\n"
    back += "ExecStopPost=systemctl --no-block poweroff\n[Install]\nWantedBy=multi-user.target\n"
    files = [
        {"path": "/root/script", "permissions": "0700", "content": script},
        {"path": "/etc/systemd/system/back.service", "content": back},
    ]
    runcmd = ["systemctl enable back.service", "sh /root/script >/dev/console 2>&1"]
    provider, instance = boot(name, "bookworm", guests.cloud_config("", write_files=files, runcmd=runcmd))
    patience = guests.KINDS[name].patience
    with pytest.raises(Refused):
        provider.boot_again(instance)
    guests.wait_until(lambda: b"written" in provider.console(instance), patience)
    provider.cut_power([instance])
    assert provider.state([instance])[instance.id].reason == "lost power"
    provider.boot_again(instance)
    said = end_of(provider, instance)
    assert said.count("written") == 1
    assert "kept\n" in said
    with pytest.raises(NotFound):
        provider.boot_again(instance)


def test_dies_with_its_supervisor(boot, tmp_path):
    """A supervisor that is killed leaves no process, mount, group or device; the machine is GONE, with the reason."""
    provider, instance = boot("machine", "bookworm", guests.cloud_config("echo up; exec sleep 600"))
    guests.wait_until(lambda: b"up" in provider.console(instance), 60)
    os.kill(provider._machine(instance.id).status()["pid"], signal.SIGKILL)
    guests.wait_until(lambda: not guests.command_lines(str(tmp_path)), 10)
    state = provider.state([instance])[instance.id]
    assert state.phase is Phase.GONE
    assert state.reason == "its supervisor was killed"

    def left() -> list[str]:
        found = guests.left_behind(tmp_path, [instance.id])
        return [each for each in found if not each.startswith("file: ")]  # the disk stays, for boot_again

    guests.wait_until(
        lambda: not left(), 5, lambda: "\n".join(left())
    )  # the kernel lets a loop device go in its own time


def test_has_its_limits(boot):
    """A guest that fills its disk or its memory hurts itself only, makes no device, and still powers off."""
    script = """
    mknod /root/disk b 7 0 && echo "made a device"
    test -c /dev/null && echo "has devices"
    dd if=/dev/zero of=/root/full bs=1M 2>&1 | grep -o 'No space left on device'
    df -m / | awk 'NR == 2 && $2 < 1100 {print "disk is small"}'
    python3 -c 'b = bytearray(1 << 30)' || echo "memory: $?"
    """
    provider, instance = boot("machine", "bookworm", guests.cloud_config(script), disk="1GiB", memory="256MiB")
    said = end_of(provider, instance)
    assert "No space left on device" in said
    assert "disk is small" in said
    assert "memory: 137" in said
    assert "made a device" not in said
    assert "has devices" in said


def test_ends_with_its_grant(tmp_path):
    """A machine that outlives its order's expiry by more than the grace is ended from outside."""
    guests.built("bookworm")
    provider = MachineProvider("", tmp_path)
    order = guests.order(guests.cloud_config("exec sleep 600"), "late")
    expired = datetime.now(timezone.utc) - timedelta(seconds=OVERTIME_SECONDS - 5)
    (instance,) = provider.launch(dataclasses.replace(order, expires=expired))
    state = guests.wait_for(provider, instance, Phase.GONE, 60)
    assert state.reason == "outlived its grant"
    provider.terminate([instance])
    assert guests.left_behind(tmp_path, [instance.id]) == []


def main(folder: str) -> None:
    """Be the host of test_an_address_of_the_host_is_out_of_reach, in a network namespace with one address more."""
    for command in ("link set lo up", "address add 192.0.2.77/32 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    with listener("192.0.2.77") as port:
        with socket.create_connection(("192.0.2.77", port)) as connection:
            assert connection.recv(10) == b"here"
        script = f"cat >/root/connect.py <<'END'\n{CONNECT}\nEND\npython3 /root/connect.py 192.0.2.77:{port}"
        provider = MachineProvider("", Path(folder))
        instances = provider.launch(guests.order(guests.cloud_config(script), "lan"))
        sys.stdout.write(end_of(provider, instances[0]))
        provider.terminate(instances)


if __name__ == "__main__":
    main(sys.argv[1])
