"""The files that `url get --html` and `form` write: whoever can read one may use what was signed."""

import os
import stat
import subprocess
import sys
import threading

import pytest


@pytest.fixture
def get(provision, opened, bucket):
    """Write the page of one object's link into a file."""
    opened.put("p/a.txt", b"a")
    return lambda path: provision("url", "get", f"s3://{bucket}/p/a.txt", "--local", "--html", path)


def test_a_page_over_a_readable_file_is_its_owners_alone(get, tmp_path):
    """Whatever the mode of the file that it replaces, and of what a link there leads to."""
    page, link = tmp_path / "x.html", tmp_path / "link.html"
    page.write_text("old")
    page.chmod(0o644)
    link.symlink_to(page)
    for path in (page, link):
        assert get(path).code == 0
        assert "X-Amz-Signature" in page.read_text()
        assert stat.S_IMODE(page.stat().st_mode) == 0o600
        page.chmod(0o644)
    assert link.is_symlink()
    assert sorted(each.name for each in tmp_path.iterdir() if not each.is_dir()) == ["link.html", "x.html"]


def test_a_page_goes_into_a_pipe_that_is_there(get, tmp_path):
    """It is written to, not replaced."""
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    assert get(pipe).code == 0
    reader.join(10)
    assert "X-Amz-Signature" in got[0]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_page_goes_to_standard_output_by_its_file(provision, bucket, tmp_path):
    """`/dev/stdout` is what the shell made it: a pipe, or a file that others hold open."""
    words = [sys.executable, "-m", "provisioner", "form", f"s3://{bucket}/in", "--local", "-o", "/dev/stdout"]
    piped = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "<form" in piped.stdout
    with (tmp_path / "out").open("w+") as out:
        subprocess.run(words, stdout=out, stderr=subprocess.DEVNULL, check=True)
        out.seek(0)
        assert "<form" in out.read()


def test_a_page_that_can_not_be_written_is_told(get, tmp_path):
    """With the exit code of a mistake."""
    done = get(tmp_path / "none" / "x.html")
    assert done.code == 2
    assert "can't write" in done.err
