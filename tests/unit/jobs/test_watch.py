"""Reading a job's standing from a listing alone."""

from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest

from provisioner.errors import JobFailed, Unreachable
from provisioner.jobs.status import TaskStatus, latest_status, require_success
from provisioner.jobs.watch import Watcher
from provisioner.plan.layout import JobKeys, parse_status
from provisioner.providers.base import Instance, Phase, State
from provisioner.retry import Retry
from provisioner.s3.bucket import ObjectInfo

NOW = datetime(2026, 11, 23, 20, 0, 0, tzinfo=timezone.utc)
ROOT = JobKeys("p", "j").status_root


def listing(*keys):
    """A listing whose entries came a second after another."""
    return [ObjectInfo(ROOT + key, 1, NOW + timedelta(seconds=number)) for number, key in enumerate(keys)]


def test_the_last_event_of_the_latest_attempt_counts():
    """Events outrank each other by their order, whatever their times; an older attempt counts no more."""
    entries = listing("0/1/failed", "0/2/started", "0/2/launched", "0/2/booted", "0/2/log/000001", "1/1/succeeded")
    found = latest_status(["0", "1", "2"], ROOT, [*entries, *listing("1/1/manifest.json")])
    assert [(item.attempt, item.event, item.manifest) for item in found] == [
        (2, "started", False),
        (1, "succeeded", True),
        (0, "waiting", False),
    ]


@pytest.mark.parametrize("key", ["", "0", "0/1", "0/x/started", "0/1/", "/1/started"])
def test_keys_of_another_layout_are_ignored(key):
    """What isn't of the layout is no status."""
    assert parse_status(ROOT, ROOT + key) is None
    assert parse_status(ROOT, "elsewhere/0/1/started") is None


def test_failure_names_the_tasks():
    """The error names each task that didn't succeed, up to ten."""
    found = [TaskStatus(str(number), 1, "failed", NOW) for number in range(12)]

    with pytest.raises(JobFailed, match=r"12 of 12 tasks of j did not succeed: 0 \(failed\), .* …"):
        require_success("j", found)


def test_only_what_may_pass_is_tried_again():
    """Unreachable is tried again with growing pauses; anything else passes through at once."""

    class Flaky:
        calls = 0

        def call(self):
            self.calls += 1
            if self.calls < 3:
                raise Unreachable("later")
            return "done"

        def refuse(self):
            self.calls += 1
            raise JobFailed("no")

    pauses = []
    flaky = Flaky()
    assert Retry(sleep=pauses.append)(flaky.call) == "done"
    assert len(pauses) == 2
    other = Flaky()
    with pytest.raises(JobFailed):
        Retry(sleep=pauses.append)(other.refuse)
    assert other.calls == 1
    never = Flaky()
    never.calls = -100
    with pytest.raises(Unreachable):
        Retry(attempts=4, sleep=pauses.append)(never.call)
    assert never.calls == -96


def test_a_launch_is_told_once(provision):
    """Whoever waits after launching reads of each task's launch once; whoever watches from elsewhere reads it too."""
    here = provision.launch(Path(__file__).parents[3] / "examples/hello/job.yaml", "--wait")
    assert here.code == 0, here.err
    assert here.err.count("launched") == 1
    assert "succeeded" in here.err


class Cloud:
    """What a Watcher needs of a provider whose VMs have all gone."""

    def state(self, instances):
        """Tell so."""
        return {item.id: State(Phase.GONE) for item in instances}


def test_the_attempts_that_a_watcher_launches_are_told_by_the_launcher(opened):
    """A first attempt that somebody else launched is told of; the retry that the watcher itself launched is not."""
    clock = [NOW]
    spec = SimpleNamespace(tasks=("0",), retries=1)
    first = Instance("a", "0", 1)
    keys = JobKeys("p", "j")
    opened.put(keys.event("0", 1, "launched"), b"{}")

    def retry(record, tasks):
        assert tasks == ["0"]
        opened.put(keys.event("0", 2, "launched"), b"{}")
        return SimpleNamespace(**{**vars(record), "instances": (first, Instance("b", "0", 2))})

    def sleep(seconds):
        clock[0] += timedelta(seconds=30 + seconds)

    told = []
    watcher = Watcher(opened, Cloud(), lambda: clock[0], sleep, told.append, retry)
    watcher.follow(
        SimpleNamespace(
            job="j", spec=spec, instances=(first,), created=NOW, expires=NOW + timedelta(days=1), launched=True
        )
    )
    assert [(event.data["attempt"], event.data["status"]) for event in told] == [
        (1, "launched"),
        (1, "lost"),
        (2, "lost"),
    ]
