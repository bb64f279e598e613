"""s3://BUCKET/KEY, as it may be written anywhere."""

import pytest

from agent.grant import Target
from provisioner.errors import BadInput
from provisioner.s3url import MAX_OBJECT_BYTES, is_s3_url, parse_object_url, parse_url, show_url, split_url


@pytest.mark.parametrize(
    "url", ["http://b/k", "s3://", "s3:///k", "s3://b/a\nb", "s3://b/\udcff", f"s3://b/{'é' * 513}", "b/k"]
)
def test_urls_that_name_nothing_are_refused(url):
    """What isn't s3://BUCKET/KEY with a key that stores take is refused."""
    with pytest.raises(BadInput):
        parse_url(url)


def test_keys_and_folders():
    """A slot wants a whole key; a prefix gets its slash, whether it was typed or not."""
    assert parse_object_url("s3://b/a/b") == ("b", "a/b")
    assert parse_url("s3://b/a").prefix == parse_url("s3://b/a/").prefix == "a/"
    assert parse_url("s3://b").prefix == parse_url("s3://b/").prefix == ""
    for url in ("s3://b", "s3://b/a/"):
        with pytest.raises(BadInput, match="names no object"):
            parse_object_url(url)


def test_a_url_that_was_checked_is_only_split():
    """Bucket and key, whichever is empty."""
    assert split_url("s3://b/a/b") == ("b", "a/b")
    assert split_url("s3://b") == ("b", "")
    assert [is_s3_url(text) for text in ("s3://b", "job-1", "./s3://b")] == [True, False, False]


def test_both_sides_know_the_largest_object():
    """The agent's own number costs it fewer bytes than a name would."""
    assert Target("https://b/", "", '{"conditions": []}', {}).size_range() == (0, MAX_OBJECT_BYTES)


def test_a_url_is_shown_as_it_is_read():
    """With a key and without."""
    for url in ("s3://b", "s3://b/a/b", "s3://b/p/"):
        assert show_url(*parse_url(url)) == url
