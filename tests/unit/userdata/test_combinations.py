"""Everything that a job on EC2 can combine: each fits into 16,384 bytes of user-data, or is refused in a sentence.

The default tests take every pair of values and all corners. `python -m tests.unit.userdata.test_combinations` takes
every combination there is, and prints how each gets its agent and how large the largest is.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import random
import sys
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from provisioner.errors import BadInput
from provisioner.job.spec import InputSpec, JobSpec, OutputSpec, RunSpec, VmSpec
from provisioner.jobs.launch import Launcher
from provisioner.jobs.role_session import RoleSessions
from provisioner.providers.ec2 import Ec2Provider
from provisioner.providers.ec2.rate import RateLimits
from provisioner.s3.bucket import Store
from provisioner.s3.signing import Bucket, Credentials
from provisioner.s3url import StoreSpec

FACTORS = {
    "market": ("on-demand", "spot"),
    "renew": (None, 3600),
    "method": ("post", "put"),
    "inputs": (0, 1, 40),
    "isolation": ("task", "group"),
    "user": ("job", None),
    "token": (0, 400, 1000, 2000),
    "scheme": ("http", "https"),
    "names": ("short", "long"),
}
# What can't be, whatever else is asked for, and the sentence that says so.
IMPOSSIBLE = {
    ("put", "renew"): "PUTs are not renewed",
    ("group", "renew"): "the grants of groups are not renewed",
    ("put", "group"): "VMs of a group share one grant, and a presigned PUT is for one task's object",
}
LIMIT = 16_384
NOW = datetime(2026, 11, 27, 12, 0, 0, tzinfo=timezone.utc)


def every():
    """Every combination."""
    return [dict(zip(FACTORS, values, strict=True)) for values in itertools.product(*FACTORS.values())]


def chosen():
    """All corners, and every pair of values: what stands beside a pair with a value in between is drawn."""
    draw = random.Random(14)
    corners = itertools.product(*((values[0], values[-1]) for values in FACTORS.values()))
    found = [dict(zip(FACTORS, values, strict=True)) for values in corners]
    for name, values in FACTORS.items():
        for value, other in itertools.product(values[1:-1], FACTORS):
            for beside in FACTORS[other] if other != name else ():
                drawn = {each: draw.choice(FACTORS[each]) for each in FACTORS}
                found.append({**drawn, name: value, other: beside})
    return found


def job(case, folder):
    """The spec of a job that does what the case says, and calls `agent` by whatever name."""
    inputs = []
    for number in range(case["inputs"]):
        path = folder / f"sample-{number:03}.csv"
        path.write_bytes(random.Random(number).randbytes(16))
        inputs.append(InputSpec(f"data/{path.name}", path))
    outputs = (
        [OutputSpec("out/result.csv", max_size=1 << 30), OutputSpec("out/log.txt")]
        if case["method"] == "put"
        else [OutputSpec("out/**"), OutputSpec("small/**", bundle=True)]
    )
    return JobSpec(
        "sweep",
        RunSpec(
            ("/bin/sh", "-c", "python3 sim.py && $AGENT push --bundle out/x"), {"AGENT": "agent"}, user=case["user"]
        ),
        store=StoreSpec("unused", method=case["method"]),
        vm=VmSpec("ec2", options={"market": case["market"]}),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        array=tuple(range(100)),
        renew=case["renew"],
        isolation=case["isolation"],
    )


def launcher(case, now=NOW):
    """A launcher that reaches nothing: planning and rendering need no network."""
    long = case["names"] == "long"
    bucket, prefix = ("b" * 60, "/".join(["a-folder-of-results"] * 10)) if long else ("results", "p")
    token = base64.b64encode(random.Random(7).randbytes(3000)).decode()[: case["token"]] or None
    credentials = Credentials("ASIAEXAMPLEEXAMPLE01", "secret", token, now + timedelta(hours=12) if token else None)
    url = f"{case['scheme']}://{bucket}.s3.eu-central-1.amazonaws.com/"
    store = Store(None, Bucket(bucket, "eu-central-1", url), prefix, credentials)
    signer = RoleSessions(credentials, lambda *_: None, lambda: now)
    return Launcher(
        store, Ec2Provider({"region": "eu-central-1"}, RateLimits(bounded=False)), lambda: now, print, signer
    )


def settled(case, folder):
    """How a case gets its agent and grant, and its largest user-data; or the sentence that refuses it."""
    spec = job(case, folder)
    one = launcher(case)
    try:
        plan = one.plan(spec)
    except BadInput as error:
        return error.message, 0
    sizes = [len(one.render(plan, task)[1].data) for task in (plan.tasks[0], plan.tasks[-1])]
    assert max(sizes) <= LIMIT
    return f"agent {plan.agent}, grant {'in the bucket' if plan.remote_grant else 'inline'}", max(sizes)


def expected(case):
    """The sentences that may refuse a case."""
    asked = {case["method"], case["isolation"], *["renew"] * bool(case["renew"])}
    return {text for needs, text in IMPOSSIBLE.items() if set(needs) <= asked}


@pytest.mark.parametrize("market", FACTORS["market"])
@pytest.mark.parametrize("renew", FACTORS["renew"])
@pytest.mark.parametrize("method", FACTORS["method"])
def test_everything_fits_or_is_refused(method, renew, market, tmp_path):
    """Each combination is within EC2's limit for its first and last task, or is one of the few that can't be."""
    mine = {"market": market, "renew": renew, "method": method}
    cases = [case for case in chosen() if {name: case[name] for name in mine} == mine]
    assert len(cases) > 60
    for case in cases:
        how, _ = settled(case, tmp_path)
        refusals = expected(case)
        assert (how in refusals) if refusals else how.startswith("agent "), case


@pytest.mark.parametrize("token", FACTORS["token"])
def test_a_dry_run_and_a_launch_never_disagree(token, tmp_path):
    """What is planned depends on the job and the credentials alone: not on the id, the time or the signature."""
    case = {name: values[0] for name, values in FACTORS.items()} | {"token": token, "inputs": 40, "names": "long"}
    plans = [launcher(case, NOW + timedelta(seconds=seconds)).plan(job(case, tmp_path)) for seconds in (0, 1, 86_399)]
    assert len({plan.job for plan in plans}) == 3
    assert len({(plan.agent, plan.remote_grant, plan.offloaded) for plan in plans}) == 1
    assert len({len(launcher(case)._documents._measured(plan).data) for plan in plans}) == 1


def test_what_can_not_fit_is_refused_by_one_sentence(tmp_path):
    """Dry run and launch plan alike, so an environment of 20,000 random bytes is refused by both with the ledger."""
    case = {name: values[0] for name, values in FACTORS.items()}
    spec = job(case, tmp_path)
    env = {"BIG": base64.b64encode(random.Random(1).randbytes(20_000)).decode()}
    spec = dataclasses.replace(spec, run=dataclasses.replace(spec.run, env=env))
    said = set()
    for seconds in (0, 1):
        with pytest.raises(BadInput) as refused:
            launcher(case, NOW + timedelta(seconds=seconds)).plan(spec)
        said.add((refused.value.message, refused.value.hint, tuple(refused.value.faults)))
    ((message, hint, faults),) = said
    assert message.endswith("bytes; ec2 takes 16384")
    assert "run.env" in hint
    assert [fault.split(":")[0] for fault in faults] == ["grant", "task", "agent", "launcher", "unit", "cloud-config"]


def main() -> None:
    """Print the table of all combinations."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        found = [(case, *settled(case, Path(folder))) for case in every()]
    for how, count in Counter(how for _, how, _ in found).most_common():
        print(f"{count:5}  {how}")
    case, _, size = max(found, key=lambda each: each[2])
    print(f"{len(found):5}  in all; the largest has {size} of {LIMIT} bytes: {case}")
    wrong = [case for case, how, _ in found if (how in expected(case)) is not bool(expected(case))]
    sys.exit(f"{len(wrong)} are not as they should be, such as {wrong[0]}" if wrong else 0)


if __name__ == "__main__":
    main()
