"""Which links a command line stands for; the store is a dictionary."""

from datetime import datetime, timezone
from types import SimpleNamespace

import pytest

from provisioner.errors import BadInput, NotFound
from provisioner.links.downloads import DownloadOptions, sign_downloads
from provisioner.links.signer import make_signer
from provisioner.s3.signing import Bucket, Credentials

NOW = datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
OBJECTS = {"a": {"x/1.txt": 1, "x/sub/1.txt": 2, "x/sub/": 0}, "b": {"1.txt": 3}}


class Bucketful:
    """One bucket of OBJECTS."""

    def __init__(self, name):
        self.objects = OBJECTS[name]

    def list(self, prefix):
        """Every object below a prefix."""
        return [SimpleNamespace(key=key, size=size) for key, size in self.objects.items() if key.startswith(prefix)]

    def size(self, key):
        """The bytes of one."""
        if key not in self.objects:
            raise NotFound(key)
        return self.objects[key]


def links(*urls, **options):
    """Return the links of some URLs."""

    def opener(bucket):
        place = Bucket(bucket, "r", f"http://h/{bucket}/")
        return Bucketful(bucket), make_signer(place, Credentials("k", "s"), now=NOW, seconds=60)

    return sign_downloads(urls, opener, DownloadOptions(**options))


def test_a_folder_is_every_object_in_it():
    """Each is saved below the folder's own name; markers of folders are no objects."""
    assert [(link.key, link.file, link.size) for link in links("s3://a/x/")] == [
        ("x/1.txt", "1.txt", 1),
        ("x/sub/1.txt", "sub/1.txt", 2),
    ]


def test_two_objects_are_not_saved_as_one_file():
    """Those of one name are saved by bucket and key, others as they are called."""
    assert [link.file for link in links("s3://a/x/1.txt", "s3://b/1.txt", "s3://a/x/sub/1.txt", check=False)] == [
        "a/x/1.txt",
        "b/1.txt",
        "a/x/sub/1.txt",
    ]


def test_what_is_not_there_is_told_unless_nobody_asks():
    """An object that is missing has a link all the same when it isn't checked; a folder has none."""
    with pytest.raises(NotFound, match="s3://b/none") as caught:
        links("s3://b/none")
    assert "--no-check" in caught.value.hint
    assert links("s3://b/none", check=False)[0].size is None
    with pytest.raises(NotFound, match="nothing below s3://b/none/"):
        links("s3://b/none/")


def test_a_filename_is_for_one_object():
    """It is what the browser saves, and curl too."""
    (link,) = links("s3://b/1.txt", filename="ä.txt", content_type="text/plain")
    assert link.file == "ä.txt"
    assert "response-content-type=text%2Fplain" in link.url
    for urls in (["s3://b/"], ["s3://b/1.txt", "s3://a/x/1.txt"]):
        with pytest.raises(BadInput, match="filename: "):
            links(*urls, filename="x")
