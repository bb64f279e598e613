"""How commands answer a store that can't be: one sentence that names the option or the URL, and exit code 2."""

import pytest

COMMANDS = [
    ("jobs", "--store", "s3://bucket"),
    ("status", "job", "--store", "s3://bucket"),
    ("gc", "--store", "s3://bucket"),
    ("doctor", "--store", "s3://bucket"),
    ("serve", "--store", "s3://bucket"),
    ("token", "job", "--store", "s3://bucket"),
    ("url", "get", "s3://bucket/key"),
    ("url", "put", "s3://bucket/key"),
    ("sign", "s3://bucket/prefix"),
    ("sign", "s3://bucket/prefix", "--format", "json"),
    ("form", "s3://bucket/prefix", "-o", "-"),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_endpoint_that_is_no_url_is_refused(provision, words):
    """Before anything is looked for at it."""
    done = provision(*words, "--endpoint-url", "bad url")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[0] == "provision: --endpoint-url: invalid URL 'bad url'"


@pytest.mark.parametrize("url", ["foo", "", "ftp://host", "http://user@host", "http://host/?q", "http://host:99999"])
def test_what_is_no_endpoint(provision, url):
    """A scheme of the web's, a host, perhaps a port and a path."""
    done = provision("jobs", "--store", "s3://bucket", "--endpoint-url", url)
    assert (done.code, done.err.splitlines()[0]) == (2, f"provision: --endpoint-url: invalid URL {url!r}")


def test_an_endpoint_that_only_botocore_refuses(provision, monkeypatch):
    """A host that no name can be is told like any other mistake."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    done = provision("jobs", "--store", "s3://bucket", "--endpoint-url", "http://a..b")
    assert (done.code, done.err.splitlines()[0]) == (2, "provision: no store can be at 'http://a..b'")


@pytest.mark.parametrize("url", ["s3://", "s3:///p/", "s3://b/a\nb"])
@pytest.mark.parametrize("command", ["status", "token"])
def test_a_jobs_url_is_checked(provision, state_folder, command, url):
    """`status` looks for no job there, and `token` makes neither a token nor the key of a service."""
    before = sorted(state_folder.rglob("*.key"))
    done = provision(command, url)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("provision: ")
    assert "s3://" in done.err.splitlines()[0]
    assert sorted(state_folder.rglob("*.key")) == before


@pytest.mark.parametrize("url", ["bucket", "s3://", "s3://b/a\nb", f"s3://b/{'k' * 1025}"])
def test_a_stores_url_is_checked(provision, url):
    """`--store` is named."""
    done = provision("jobs", "--store", url)
    assert done.code == 2
    assert done.err.startswith("provision: --store: ")


def test_a_name_that_no_bucket_has_is_told(provision, monkeypatch):
    """Not as credentials that can't be found."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    done = provision("jobs", "--store", "s3://no bucket")
    assert (done.code, done.err.splitlines()[0]) == (2, "provision: 'no bucket' can't be the name of a bucket")


def test_the_embedded_store_has_its_own_endpoint(provision):
    """`--local` and an endpoint contradict each other; the one to drop is named."""
    done = provision("sign", "s3://bucket/p", "--local", "--endpoint-url", "http://127.0.0.1:1")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("provision: --endpoint-url: ")
