"""Kill tests: `agent push` is killed at random moments and run again until done; nothing is lost or sent twice."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.support.broken_store import broken_store
from tests.support.grants import ROOT, fake_grant, gather, tree_of, write_grant

ROUNDS = 200  # random moments under the `faults` marker
SMOKE = 5  # and in the default tier
OPTIONS = [[], ["--bundle"], ["--workers", "2"], ["--limit-rate", "500M"]]


def make_tree(folder, seed):
    """Make files of every kind: small, empty, over the split size, oddly named, and an empty directory."""
    dice = random.Random(seed)
    (folder / "sub" / "empty").mkdir(parents=True)
    for number in range(60):
        (folder / "sub" / f"{number:02d}\n☃").write_bytes(dice.randbytes(dice.randrange(20_000)))
    (folder / "middle").write_bytes(dice.randbytes(3_000_000))
    for name in ("big", "bigger"):
        (folder / name).write_bytes(dice.randbytes(dice.randrange(17 << 20, 60 << 20)))


def journaled(path):
    """The objects that a journal has: what may not be sent again."""
    found = set()
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if "part" in entry:
                found.add(f"{entry['path']}.parts/{entry['part']:05d}")
            elif "path" in entry and "bundle" not in entry and "type" not in entry:
                found.add(entry["path"])
            elif "object" in entry:
                found.add(entry["object"])
    return found


def kill_until_done(tmp_path, moments, seed):
    """Kill pushes at random moments, `moments` times in all, each time resumed; check the tree whenever one is done."""
    dice, killed, last = random.Random(seed), 0, 1.0
    with broken_store() as store:
        for attempt in itertools.count():
            home = tmp_path / str(attempt)
            tree = home / "tree"
            make_tree(tree, seed + attempt)
            store.objects.clear()
            grant = fake_grant(store.url)
            path = write_grant(home, grant)
            journal = home / "grant.json.journal"
            options = dice.choice(OPTIONS)
            argv = [sys.executable, "-m", "agent", "push", "--grant", path, "--split-over", "16M", *options]
            argv += ["--base", tree, tree]
            done = False
            while not done:
                before = journaled(journal)
                store.posts.clear()
                began = time.monotonic()
                push = subprocess.Popen(
                    argv,
                    env=dict(os.environ, PYTHONPATH=str(ROOT)),
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
                if killed < moments:
                    try:
                        push.wait(dice.uniform(0.02, last))
                    except subprocess.TimeoutExpired:
                        # The parent alone, or everything at once as a reboot does.
                        dice.choice([os.kill, os.killpg])(push.pid, signal.SIGKILL)
                        killed += 1
                _, said = push.communicate()
                assert push.returncode in (0, -signal.SIGKILL), said
                done = push.returncode == 0
                sent = [key.removeprefix(grant.outputs.prefix) for key in store.posts]
                assert not before & set(sent), "sent again after it was journaled"
                if done and not before:
                    last = time.monotonic() - began  # of a whole push: kills fall into all of it
            found, manifest = gather(store.objects.__getitem__, grant)
            assert found == tree_of(tree)
            assert manifest["complete"] is True
            subprocess.run(["rm", "-r", home], check=True)
            if killed >= moments:
                break
    assert killed >= moments
    return killed


def test_a_few_kills(tmp_path):
    """Killed at five random moments and resumed, a push stores the tree byte for byte, and nothing twice."""
    kill_until_done(tmp_path, SMOKE, random.randrange(1 << 30))


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_many_kills(tmp_path):
    """The same at two hundred random moments."""
    assert kill_until_done(tmp_path, ROUNDS, random.randrange(1 << 30)) == ROUNDS


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_interrupt_leaves_the_journal_whole(tmp_path, number):
    """Told to end, a push ends with exit code 130 and leaves no process; the next one sends the rest."""
    tree = tmp_path / "tree"
    make_tree(tree, 1)
    with broken_store() as store:
        path = write_grant(tmp_path, fake_grant(store.url))
        argv = [sys.executable, "-m", "agent", "push", "--grant", path, "--split-over", "16M", "--base", tree, tree]
        env = dict(os.environ, PYTHONPATH=str(ROOT))
        push = subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, start_new_session=True)
        while len(store.posts) < 20 and push.poll() is None:
            time.sleep(0.001)
        os.killpg(push.pid, number) if number == signal.SIGINT else push.send_signal(number)
        _, said = push.communicate(timeout=20)
        assert (push.returncode, b"Traceback" in said, b"interrupted" in said) == (130, False, True), said
        with pytest.raises(ProcessLookupError):
            os.killpg(push.pid, 0)
        before = journaled(tmp_path / "grant.json.journal")
        assert before
        store.posts.clear()
        assert subprocess.run(argv, env=env, stderr=subprocess.PIPE, check=False).returncode == 0
        assert not {key.removeprefix("job/out/0/1/") for key in store.posts} & before
        assert gather(store.objects.__getitem__, fake_grant(store.url))[0] == tree_of(tree)


def test_a_stream_that_is_given_again_sends_only_what_is_missing(tmp_path):
    """A killed push of standard input, run again on the same, sends no part that was journaled, and it arrives."""
    data = random.Random(7).randbytes(70 << 20)
    with broken_store() as store:
        grant = fake_grant(store.url)
        path = write_grant(tmp_path, grant)
        argv = [sys.executable, "-m", "agent", "push", "--grant", path, "-", "--as", "all.tar"]
        env = dict(os.environ, PYTHONPATH=str(ROOT))
        push = subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        push.stdin.write(data[: 40 << 20])  # and never the end
        while len(store.posts) < 2:
            assert push.poll() is None
            time.sleep(0.01)
        journal = tmp_path / "grant.json.journal"
        while len(before := journaled(journal)) < 2:
            time.sleep(0.01)
        push.kill()
        push.communicate()
        store.posts.clear()
        subprocess.run(argv, env=env, input=data, stderr=subprocess.DEVNULL, check=True)
        assert not {key.removeprefix(grant.outputs.prefix) for key in store.posts} & before
        assert gather(store.objects.__getitem__, grant)[0] == {b"all.tar": data}
