"""User-data: one ``#cloud-config`` that carries everything a VM needs, and a ledger of what each part costs.

Pure but for the packed agent, which is read from a cache: the same plan and grant give the same bytes. Values reach
YAML through a filter (JSON is YAML), files that are no plain text as gzip and base64, so nothing an operator writes can
change the document's structure.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import jinja2

from agent import layout
from agent.grant import Grant, dump
from provisioner.clock import to_seconds
from provisioner.packing import agent_archive
from provisioner.plan.plan import Plan, TaskPlan
from provisioner.resources import make_environment, templates

RUN_DIR = layout.GRANT.rpartition("/")[0]
STATE_DIR = "/var/lib/freepost"  # what RUN_DIR leads to: it outlives a reboot
GRANT_PATH = layout.GRANT
GRANT_SOURCE_PATH = layout.GRANT_SOURCE % layout.GRANT  # in its place, of a grant that lies in the bucket
TASK_PATH = f"{RUN_DIR}/{layout.TASK}"
AGENT_PATH = "/usr/local/lib/freepost/agent.bz2"
LAUNCHER_PATH = "/usr/local/bin/agent"
UNIT_PATH = "/etc/systemd/system/freepost.service"
WORKDIR = "/srv/job"
_MEMORY = 9  # zlib's most: the whole archive of the agent is then one block, whose codes are written down once
LIMIT_MARGIN = 64  # bytes by which the user-data of one task, or launch, may differ from another's


@dataclass(frozen=True)
class BootFile:
    """One entry of ``write_files``. `section` is what the ledger calls it."""

    section: str
    path: str
    mode: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class LedgerLine:
    """What one section of the user-data costs: its own size, and how much smaller the whole would be without it."""

    section: str
    size: int
    cost: int


@dataclass(frozen=True)
class UserData:
    """Rendered user-data: `plain` is the document, `data` what the provider is given (gzipped unless it is raw)."""

    plain: bytes = field(repr=False)
    data: bytes = field(repr=False)
    files: tuple[BootFile, ...]
    extra_objects: Mapping[str, bytes] = field(
        default_factory=dict, repr=False
    )  # objects that the VM will look for, by key

    def ledger(self) -> list[LedgerLine]:
        """What each file costs, in the order of the document. Costs don't add up: gzip shares between sections."""
        whole, pack = len(self.data), bytes if self.data == self.plain else gzipped
        lines = []
        for file in self.files:
            without = self.plain.replace(yaml_content(file.content).encode(), b"")
            lines.append(LedgerLine(file.section, len(file.content), whole - len(pack(without))))
        rest = sum(len(yaml_content(file.content)) for file in self.files)
        return [*lines, LedgerLine("cloud-config", len(self.plain) - rest, whole - sum(line.cost for line in lines))]


def explain_user_data(user_data: UserData, limit: int) -> str:
    """What is in the user-data and what each part costs, as text."""
    raw = user_data.data == user_data.plain
    lines = [
        f"{len(user_data.data)} bytes of {limit} ({'not gzipped' if raw else f'gzip of {len(user_data.plain)}'})",
        "",
        f"   bytes  {'written' if raw else 'gzipped'}  section",
    ]
    lines += [f"{line.size:8}  {line.cost:7}  {line.section}" for line in user_data.ledger()]
    modes = [f"{file.mode}  {file.path}" for file in user_data.files]
    return "\n".join([*lines, "", "It writes:", *modes])


def render(plan: Plan, task: TaskPlan, grant: Grant, stub: bytes = b"") -> UserData:
    """Render the user-data of one task. `stub` is what it holds of a grant that lies in the bucket."""
    files = boot_files(plan, task, dump(grant).encode(), stub)
    extra_objects = {plan.keys.grant(task.task, task.attempt): dump(grant).encode()} if stub else {}
    plain = (
        _environment()
        .get_template("user-data.yaml.j2")
        .render(
            job=plan.job,
            task=task.task,
            attempt=task.attempt,
            user=plan.spec.run.account,
            deadman=deadman(plan),
            run_dir=RUN_DIR,
            state_dir=STATE_DIR,
            files=files,
        )
        .encode()
    )
    return UserData(plain, plain if plan.raw else gzipped(plain), files, extra_objects)


def boot_files(plan: Plan, task: TaskPlan, grant: bytes, stub: bytes = b"") -> tuple[BootFile, ...]:
    """Return every file the VM gets, the secret ones first."""
    parts, more = agent_parts(plan, task)
    run = plan.spec.run
    unit = (
        _environment()
        .get_template("freepost.service.j2")
        .render(
            stop_seconds=run.grace + 60,
            # Uploads may take all the time that the dead-man timer leaves them, and never less than a minute.
            max_seconds=max(plan.spec.deadline, run.timeout + 2 * run.grace + 60),
        )
    )
    return (
        BootFile("grant", GRANT_SOURCE_PATH if stub else GRANT_PATH, "0400", stub or grant),
        BootFile("task", TASK_PATH, "0400", json.dumps(task_document(plan), separators=(",", ":")).encode()),
        *(
            BootFile(f"file {item.path}", f"{RUN_DIR}/{layout.FILES}/{item.path}", item.mode, item.content)
            for item in plan.inline
        ),
        BootFile("agent", AGENT_PATH, "0644", agent_archive.packed(parts, more=more)),
        BootFile("launcher", LAUNCHER_PATH, "0755", _bare((templates() / "agent.sh").read_text())),
        BootFile("unit", UNIT_PATH, "0644", _bare(unit)),
    )


def _bare(text: str) -> bytes:
    """A script or unit without its comment lines, which are for whoever reads the template."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("# ")).encode()


def agent_parts(plan: Plan, task: TaskPlan) -> tuple[frozenset[str], bool]:
    """The modules of the agent that travel in the user-data besides its core, and whether more follow from the bucket.

    A job's text doesn't tell whether it calls `agent`: any script may. So everything is packed or, where it can't be,
    what `Plan.agent` says.
    """
    if plan.agent == "inline":
        return agent_archive.whole(), False
    spec = plan.spec
    needed: set[str] = set()
    if plan.bucket.url.startswith("https:"):
        needed.update(agent_archive.FOR_TLS)
    if plan.downloads and plan.agent != "bucket-minimal":
        needed.update(agent_archive.FOR_INPUTS)
    if plan.by_put:
        needed.update(agent_archive.FOR_PUTS)
    if task.grouped:
        needed.update(agent_archive.FOR_GROUPS)
    if plan.remote_grant:
        needed.update(agent_archive.FOR_REMOTE_GRANTS)
    if plan.archive:
        return frozenset(needed), True
    if spec.renew:
        needed.update(agent_archive.FOR_RENEWAL)
    if _spot(plan):
        needed.update(agent_archive.FOR_SPOT)
    if any(item.bundle for item in spec.outputs):
        needed.update(agent_archive.FOR_BUNDLES)
    if plan.agent == "inline-reduced":
        reads_grant = spec.run.account is None or not plan.has_guest
        needed.update(agent_archive.FOR_ROOT if reads_grant else agent_archive.FOR_USERS)
    return frozenset(needed), False


def _spot(plan: Plan) -> bool:
    return "spot" in plan.spec.vm.options.get("market", ())


def task_document(plan: Plan) -> dict[str, object]:
    """What `agent run` is to do; agent/task.py documents the fields."""
    spec = plan.spec
    marked = [item.glob for item in spec.outputs if item.checkpoint]
    return {
        "command": list(spec.run.command),
        "env": dict(spec.run.env),
        "user": spec.run.account,
        "timeout": spec.run.timeout,
        "grace": spec.run.grace,
        "workdir": WORKDIR,
        "outputs": [{"glob": item.glob, "bundle": item.bundle} for item in spec.outputs],
        **({"checkpoint": {"globs": marked, "every": spec.checkpoint}} if spec.checkpoint else {}),
        **({"spot": True} if _spot(plan) else {}),
    }


def deadman(plan: Plan) -> str:
    """A shell line that powers the VM off at the plan's deadline, counted from the launch and not from this boot.

    A clock that is wrong can't lengthen it past the whole budget, nor shorten it below a minute. At the first boot,
    when the folder isn't there yet, less than a minute means that the clock is wrong: it is the whole budget then. A
    timer of systemd's own, without dependencies: `shutdown -P` asks logind over D-Bus, and neither runs yet when
    ``bootcmd`` does (it then schedules nothing, and says so to nobody).
    """
    limit, budget = to_seconds(plan.deadline), plan.spec.deadline
    free = "DefaultDependencies=no"
    return (
        f"l=$(({limit}-$(date +%s)));b={budget};[ -d {STATE_DIR} ]||l=$((l<60?b:l));"
        f"systemd-run --no-block --on-active=$((l>b?b:l<60?60:l)) "
        f"--timer-property={free} -p {free} systemctl poweroff"
    )


def gzipped(data: bytes) -> bytes:
    """Gzip with no time and no operating system in its header: zlib's own wrapper differs between Pythons."""
    *pieces, last = re.split(rb"([A-Za-z0-9+/=]{200,})", data)
    body, before = b"", b""
    for piece in pieces:  # text, then base64, in turn: each wants codes of its own
        body += _deflated(piece, before)
        before += piece
    body += _deflated(last, before, zlib.Z_FINISH)
    trailer = zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")
    return b"\x1f\x8b\x08\0\0\0\0\0\x02\xff" + body + trailer


def _deflated(piece: bytes, before: bytes, end: int = zlib.Z_SYNC_FLUSH) -> bytes:
    """Compress `piece`, which follows `before`.

    Without back-references where that is smaller, as for base64 of an archive.
    """

    def by(strategy: int) -> bytes:
        window = before[-(1 << zlib.MAX_WBITS) :]
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, _MEMORY, strategy, zdict=window)
        return packer.compress(piece) + packer.flush(end)

    return min(by(zlib.Z_DEFAULT_STRATEGY), by(zlib.Z_HUFFMAN_ONLY), key=len)


def yaml_content(content: bytes) -> str:
    """How a file's content stands in the document: text as it is, to be read by eye and compressed with the rest.

    One line is quoted; more are a literal block, as deep as the template has it. Anything else, control characters
    included, is in base64, and by gzip where that makes it smaller.
    """
    if re.fullmatch(rb"[\t -~]*", content):
        return "content: '" + content.decode().replace("'", "''") + "'"
    if re.fullmatch(rb"[\t\n -~]*", content):
        *lines, last = content.decode().split("\n")
        head = "content: |2-" if last else "content: |2+"
        lines += [last] if last else []
        return "\n".join([head, *(line and f"    {line}" for line in lines)])
    small = gzipped(content)
    if len(small) < len(content):
        return "encoding: gz+b64\n  content: " + base64.b64encode(small).decode()
    return "encoding: b64\n  content: " + base64.b64encode(content).decode()


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return make_environment({"yaml": json.dumps, "yaml_content": yaml_content})


def fits(plan: Plan, user_data: UserData) -> bool:
    """Tell from one task's user-data whether that of every task, and of later launches, is within the limit."""
    return len(user_data.data) <= plan.user_data_limit - LIMIT_MARGIN


def smaller_plans(plan: Plan, user_data: UserData, *, staged: bool) -> list[Plan]:
    """The plans with less in their user-data that come next; none when nothing is left to leave out.

    First it is what the agent can do without that goes to the bucket or, unless something is `staged` there, stays at
    home; then one of the job's files, the one that costs most, or the grant itself, whichever saves more; and with a
    grant that names inputs, at last what fetches these.
    """
    smaller = {"inline": "bucket"} if staged else {"inline": "inline-reduced", "inline-reduced": "inline-minimal"}
    if plan.spec.run.agent == "auto" and plan.agent in smaller:
        return [dataclasses.replace(plan, agent=smaller[plan.agent])]
    pack = (lambda content: yaml_content(content).encode()) if user_data.data == user_data.plain else gzipped
    found = [] if plan.remote_grant else [dataclasses.replace(plan, remote_grant=True)]
    if plan.remote_grant and plan.downloads and plan.agent == "bucket" and plan.spec.run.agent == "auto":
        found.append(dataclasses.replace(plan, agent="bucket-minimal"))
    if plan.inline:
        costliest = max(plan.inline, key=lambda item: len(pack(item.content)))
        found.append(dataclasses.replace(plan, offloaded=(*plan.offloaded, costliest)))
    return found
