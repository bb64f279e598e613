"""`agent run`: in which order a job's last words go out."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.faults.kit import ROOT, broken_store, fake_grant, write_grant

SCRIPT = "dd if=/dev/zero of=out1 bs=1M count=3; echo 1 >out2; echo ready; exec sleep 60"


@pytest.mark.parametrize("interrupted", [True, False])
def test_what_tells_most_goes_first_when_time_may_be_short(tmp_path, interrupted):
    """All of the log precedes the outputs; of those, small files go first once the job is interrupted."""
    with broken_store() as server:
        path = write_grant(tmp_path, fake_grant(server.url))
        script = SCRIPT if interrupted else SCRIPT.replace("exec sleep 60", "")
        task = {"command": ["sh", "-c", script], "env": {}, "user": None, "timeout": 60, "grace": 5}
        task.update(workdir=str(tmp_path / "work"), outputs=[{"glob": "out*", "bundle": False}], checkpoint=None)
        (tmp_path / "task.json").write_text(json.dumps(task))
        process = subprocess.Popen(
            [sys.executable, "-m", "agent", "run"],
            env={**os.environ, "FREEPOST_GRANT": str(path), "PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 20
            while "job/status/0/1/started" not in server.objects or b"ready" not in (tmp_path / "log").read_bytes():
                assert time.monotonic() < deadline
                time.sleep(0.02)  # the job's own progress: nobody tells of it
            if interrupted:
                process.send_signal(signal.SIGTERM)
            assert process.wait(30) == (130 if interrupted else 0)
        finally:
            process.kill()
            process.wait()
    names = [key.removeprefix("job/out/0/1/").removeprefix("job/status/0/1/") for key in server.objects]
    logs = [at for at, name in enumerate(names) if name.startswith("log/")]
    assert logs
    assert max(logs) < min(names.index("out1"), names.index("out2"))
    if interrupted:
        assert names.index("out2") < names.index("out1")
        assert names[-2:] == ["manifest.json", "interrupted"]
    else:
        assert names[-2:] == ["manifest.json", "succeeded"]
