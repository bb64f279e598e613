"""examples/provider-plugin: a provider that another distribution offers, installed as a user would and put to work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support import ordinary

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A folder with the example installed into it."""
    folder = tmp_path_factory.mktemp("plugin")
    source = folder / "source"
    shutil.copytree(ROOT / "examples/provider-plugin", source)
    target = folder / "site"
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    shutil.unpack_archive(wheel, target, "zip")  # a pure wheel is its own installation
    return target


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_a_third_partys_provider_does_a_job(installed, store, bucket, tmp_path):
    """Found by its entry point alone, it runs an ordinary user's job in its own folder, and checks its options."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FREEPOST_"))},
        "PYTHONPATH": str(installed),
        "AWS_ACCESS_KEY_ID": store.access_key,
        "AWS_SECRET_ACCESS_KEY": store.secret_key,
        "FREEPOST_STATE_DIR": str(tmp_path / "state"),
    }
    job = tmp_path / "job.yaml"
    job.write_text(
        textwrap.dedent(f"""\
            name: plugin
            store: {{url: "s3://{bucket}/p", endpoint_url: "{store.endpoint_url}", region: {store.region}}}
            vm: {{provider: nice, niceness: 7}}
            run: {{command: "cut -d ' ' -f 19 /proc/$PPID/stat > niceness"}}  # the agent's; a job is always at 19
            outputs: [niceness]
            revoke: never  # to find out that SeaweedFS can't takes 25 s; tests/contract holds that
        """)
    )
    command = [sys.executable, "-m", "provisioner", "launch", job, "--collect", tmp_path / "home"]
    done = ordinary.run(*command, env=environment, timeout=200)
    consoles = [path.read_text() for path in (tmp_path / "state/nice").glob("*/console")]
    assert done.returncode == 0, (done.stderr, consoles)
    (agent,) = (tmp_path / "state/nice").glob("*/root/run/freepost-agent")
    assert (agent / "agent/push.py").exists(), "it unpacked the agent elsewhere, where another launch's may be"
    found = next((tmp_path / "home").rglob("niceness")).read_text()
    assert int(found) == os.getpriority(os.PRIO_PROCESS, 0) + 7
    bad = [sys.executable, "-m", "provisioner", "launch", job, "--set", "vm.niceness=99"]
    refused = ordinary.run(*bad, env=environment, timeout=60)
    assert refused.returncode == 2
    assert "vm.niceness" in refused.stderr
