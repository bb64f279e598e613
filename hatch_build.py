"""Puts what is made into the build: the agent, packed for every VM of a launch, and cloud-init's schema.

The agent is packed by `provisioner.packing.agent_archive`, so that no launch has to. A checkout (an editable build)
packs it when it is first wanted, and keeps it.

The schema is taken from Debian's own package, so that `provision` validates anywhere.
`apt-get download` fetches and verifies the package (no root needed). The schema in it, or one that an earlier build
left, must have one of the sums in pyproject.toml, so a build never carries one that nobody looked at.
FREEPOST_SCHEMA=must fails the build where that is not possible (a release does); =no leaves it out; otherwise the build
warns and goes on without.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TARGET = "provisioner/userdata/cloud-config.schema.json"
MEMBER = "usr/lib/python3/dist-packages/cloudinit/config/schemas/schema-cloud-config-v1.json"
SECONDS = 30


class BuildHook(BuildHookInterface):
    """Runs before every build of a wheel, editable ones too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add what is made to the build."""
        if self.target_name != "wheel":
            return
        if version != "editable":
            self._pack(build_data)
        self._take_schema(build_data)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatchling's
        """Delete what was only made to be packed."""
        if self._packed is not None:
            self._packed.cleanup()

    _packed: tempfile.TemporaryDirectory[str] | None = None

    def _pack(self, build_data: dict[str, Any]) -> None:
        self._packed = tempfile.TemporaryDirectory()
        sys.path.insert(0, self.root)
        try:
            from provisioner.packing import agent_archive

            agent_archive.build(Path(self._packed.name))
        finally:
            sys.path.remove(self.root)
        for path in sorted(Path(self._packed.name).iterdir()):
            build_data["force_include"][str(path)] = f"provisioner/agent/{path.name}"

    def _take_schema(self, build_data: dict[str, Any]) -> None:
        """Fetch the schema unless it is there already, and add it to the build."""
        wish = os.environ.get("FREEPOST_SCHEMA", "")
        target = Path(self.root, TARGET)
        if wish == "no":
            return
        try:
            if target.exists():
                self._pinned(target.read_bytes(), str(target))
            else:
                target.write_bytes(self._pinned(fetch(), "the schema in this system's package"))
            build_data["artifacts"].append(f"/{TARGET}")
        except (OSError, KeyError, ValueError, subprocess.SubprocessError, tarfile.TarError) as error:
            if wish == "must":
                raise
            self.app.display_warning(f"cloud-init's schema is not in this build: {type(error).__name__}: {error}")

    def _pinned(self, content: bytes, what: str) -> bytes:
        found = hashlib.sha256(content).hexdigest()
        if found not in self.config["sha256"]:
            raise ValueError(f"{what}, sha256 {found}, is not one of those pinned")
        return content


def fetch() -> bytes:
    """Return the schema that is in this system's cloud-init package."""
    with tempfile.TemporaryDirectory() as folder:
        quick = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=5", "-o", "APT::Sandbox::User="]
        subprocess.run(
            ["apt-get", "-q", *quick, "download", "cloud-init"],
            cwd=folder, check=True, capture_output=True, timeout=SECONDS,
        )  # fmt: skip
        package = next(Path(folder).glob("cloud-init_*.deb"))
        files = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(package)], check=True, capture_output=True, timeout=SECONDS
        ).stdout
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        member = archive.extractfile(f"./{MEMBER}")
        if member is None:
            raise KeyError(MEMBER)
        return member.read()
