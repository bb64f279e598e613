"""For whoever is not root a file of mode 0400 can be written only by the descriptor that made it."""

import hashlib
import os
import re
import sys
from pathlib import Path

import pytest

from tests.support import ordinary
from tests.support.grants import real_grant, write_grant

ROOT = Path(__file__).parents[2]
AGAIN = """
import json, sys
from pathlib import Path
from provisioner.providers.local import LocalProvider
from provisioner.userdata.render import GRANT_PATH, LAUNCHER_PATH
from tests.support import guests

folder = Path(sys.argv[1])
left = folder / ("c0c0/root" + GRANT_PATH)
left.parent.mkdir(parents=True)
left.touch(0o400)
script = '#!/bin/sh\\necho "here: $(cat "$FREEPOST_GRANT")"\\n'
files = [
    {"path": GRANT_PATH, "permissions": "0400", "content": "the grant"},
    {"path": LAUNCHER_PATH, "permissions": "0755", "content": script},
]
user_data = b"#cloud-config\\n" + json.dumps({"write_files": files}).encode()
provider = LocalProvider(folder)
instances = provider.launch(guests.order(user_data, "c0c0"))
guests.wait_for(provider, instances[0], guests.Phase.GONE, 30)
print(provider.console(instances[0]).decode(), end="")
provider.terminate(instances)
print(*folder.iterdir())
"""


@pytest.fixture
def theirs(store, bucket, tmp_path):
    """Call `provision` as an ordinary user with the session's store, the test's bucket and a state folder of theirs."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FREEPOST_"))}
    environment = {
        **plain,
        "AWS_ACCESS_KEY_ID": store.access_key,
        "AWS_SECRET_ACCESS_KEY": store.secret_key,
        "FREEPOST_STATE_DIR": str(tmp_path / "their state"),
    }
    where = f'{{url: "s3://{bucket}/p", endpoint_url: "{store.endpoint_url}", region: {store.region}}}'

    def provision(command, *words, job=None):
        if job:
            (tmp_path / "job.yaml").write_text(f"store: {where}\nrevoke: never\nvm: {{provider: local}}\n{job}")
        done = ordinary.run(sys.executable, "-m", "provisioner", command, *words, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done

    return provision


def test_a_job_with_files_of_every_mode_comes_home_and_is_deleted(theirs, store, bucket, tmp_path):
    """A job's files may be read-only or closed to all, and it may close a folder: it comes home, and `rm` ends it."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    launched = theirs(
        "launch", "job.yaml", "--collect", "home",
        job="name: modes\noutputs: [all]\nrun:\n"
        "  command: cat a b c >all; stat -c %a a b c >>all; mkdir shut; touch shut/file; chmod 0555 shut\n"
        '  files: [{source: a, mode: "0400"}, {source: b, mode: "0444"}, {source: c, mode: "0000"}]\n',
    )  # fmt: skip
    (found,) = (tmp_path / "home").rglob("all")
    assert found.read_text().split() == ["abc400", "444", "400"]
    (home,) = (tmp_path / "their state/local").iterdir()
    assert (home / "root/srv/job/shut/file").exists()
    (job,) = re.findall("^job (.*)", launched.stderr, re.MULTILINE)
    theirs("rm", job, "--store", f"s3://{bucket}/p", "--endpoint-url", store.endpoint_url)
    assert not home.exists()


def test_a_launch_that_died_half_way_is_launched_again(tmp_path):
    """The grant that it left, which can't be opened for writing, is replaced; terminated, nothing is left."""
    done = ordinary.run(sys.executable, "-c", AGAIN, tmp_path, cwd=ROOT)
    assert (done.stdout, done.stderr, done.returncode) == ("here: the grant\n\n", "", 0)


def test_a_seed_replaces_a_read_only_one(theirs, tmp_path):
    """`render --seed` into a folder and an ISO replaces files that can't be opened for writing."""
    (tmp_path / "seed").mkdir()
    old = [tmp_path / "seed/user-data", tmp_path / "seed.iso"]
    for path in old:
        path.touch(0o400)
        target = path if path.suffix else path.parent
        theirs("render", "job.yaml", "--seed", target, job="name: seeds\nrun: {command: 'true'}\n")
    assert all(path.stat().st_size for path in old)


def test_a_third_partys_provider_writes_what_a_vm_would_get(tmp_path):
    """What `unpack` gives can be written and read by an ordinary user, whatever its mode, and replaces nothing."""
    program = """
import sys
from pathlib import Path
from provisioner.userdata.parse import WrittenFile
for mode in (0o400, 0o000, 0o200, 0o755):
    item = WrittenFile(f"/a/{mode:o}", mode, b"text")
    item.write(Path(sys.argv[1]))
    print(Path(sys.argv[1], f"a/{mode:o}").read_text(), end=" ")
item.write(Path(sys.argv[1]))
"""
    done = ordinary.run(sys.executable, "-c", program, tmp_path, cwd=ROOT)
    assert done.stdout == "text text text text "
    assert "FileExistsError" in done.stderr


def test_inputs_are_fetched_again_over_what_a_killed_fetch_left(store, s3, bucket, tmp_path):
    """A part that was closed before it was renamed, and an input that its owner can't read, are fetched anew."""
    data = b"an input"
    s3.put_object(Bucket=bucket, Key="in", Body=data)
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "in"})
    digest = hashlib.sha256(data).hexdigest()
    inputs = [{"path": name, "url": url, "size": len(data), "sha256": digest, "mode": "0400"} for name in ("a", "b")]
    path = write_grant(tmp_path, real_grant(s3, bucket, inputs=inputs))
    (tmp_path / "here").mkdir()
    (tmp_path / "here/a.part").touch(0o400)
    (tmp_path / "here/b").touch(0o000)
    done = ordinary.run(sys.executable, "-m", "agent", "pull", "--grant", path, "--into", tmp_path / "here", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / "here" / name).read_bytes() for name in ("a", "b")] == [data, data]
    assert sorted(os.listdir(tmp_path / "here")) == ["a", "b"]


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at other processes in /proc")
def test_everyones_processes_are_looked_at():
    """A process that may not be looked into shows what it shows, and does not end a search by arguments."""
    program = (
        "from tests.support.guests import command_lines\n"
        "assert [line for line in command_lines('') if 'import command_lines' in line]"
    )
    done = ordinary.run(sys.executable, "-c", program, cwd=ROOT)
    assert (done.stderr, done.returncode) == ("", 0)
