"""The agent on the oldest and the newest Python that it must run on, against a real store."""

import os

import pytest

from tests.support.grants import gather, reader, real_grant, run_agent, tree_of, write_grant
from tests.support.interpreters import AGENT_PYTHONS


@pytest.mark.e2e
@pytest.mark.parametrize("python", AGENT_PYTHONS)
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_tree_on_each_python(python, locale, s3, bucket, tmp_path, monkeypatch):
    """Small, large, bundled, streamed and oddly named files arrive, and inputs are fetched, whatever the locale."""
    assert python, "this Python was asked for and is not here"
    monkeypatch.setenv("LC_ALL", locale)
    tree = tmp_path / "tree"
    (tree / "empty").mkdir(parents=True)
    for number in range(40):
        (tree / f"{number} ☃\n").write_bytes(os.urandom(number * 100))
    with open(os.fsencode(tree) + b"/\xff", "wb") as file:
        file.write(b"x")
    (tree / "big").write_bytes(os.urandom(18 << 20))
    s3.put_object(Bucket=bucket, Key="input", Body=b"fetched")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "input"})
    grant = real_grant(s3, bucket, inputs=[{"path": "got", "url": url, "size": 7}])
    path = write_grant(tmp_path, grant)
    run_agent("push", "--grant", path, "--split-over", "16M", "--base", tree, tree, python=python, check=0)
    assert gather(reader(s3, bucket), grant)[0] == tree_of(tree)
    run_agent("push", "--grant", path, "--bundle", "--as", "bundled", tree, python=python, check=0)
    run_agent("push", "--grant", path, "-", "--as", "piped", python=python, check=0, input=bytes(17 << 20))
    found = gather(reader(s3, bucket), grant)[0]
    assert found.pop(b"piped") == bytes(17 << 20)
    assert {name: data for name, data in found.items() if name.startswith(b"bundled/")} == {
        b"bundled/" + name: data for name, data in tree_of(tree).items()
    }
    run_agent("check", "--grant", path, "--base", tree, tree, python=python, check=0)
    run_agent("pull", "--grant", path, "--into", tmp_path / "in", python=python, check=0)
    assert (tmp_path / "in" / "got").read_bytes() == b"fetched"
