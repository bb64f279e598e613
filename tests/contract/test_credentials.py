"""Credentials as boto3 finds them: what an external process gives signs a policy that the store takes."""

import json
import shlex
import sys
from datetime import datetime, timedelta, timezone

import pytest

from provisioner.errors import NoCredentials
from provisioner.s3.bucket import open_store
from provisioner.s3.probe import FormClient
from provisioner.s3.signing import RequestSigner
from provisioner.s3url import StoreSpec


@pytest.fixture
def profile(store, bucket, tmp_path, monkeypatch):
    """Write a profile whose credential_process runs `code`; return what opens the test's bucket by it."""

    def written(code):
        program = tmp_path / "process.py"
        program.write_text(code)
        command = shlex.join([sys.executable, str(program)])
        (tmp_path / "config").write_text(f"[profile outside]\ncredential_process = {command}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        return StoreSpec(bucket, "p", store.endpoint_url, store.region, "path", profile="outside")

    return written


@pytest.mark.parametrize("ends", [None, datetime(2099, 1, 1, tzinfo=timezone.utc)])
def test_an_external_process_signs(store, profile, ends):
    """Its keys sign a form that the store takes, and the end of their session is known."""
    found = {"Version": 1, "AccessKeyId": store.access_key, "SecretAccessKey": store.secret_key}
    if ends is not None:
        found["Expiration"] = ends.isoformat()
    opened = open_store(profile(f"print({json.dumps(found)!r})"))
    assert opened.credentials.expires == ends
    now = datetime.now(timezone.utc)
    target = RequestSigner(opened.bucket, opened.credentials, now).sign_prefix(
        "p/", expires=now + timedelta(hours=1), max_bytes=9
    )
    FormClient().post(target, "k", b"data")
    assert opened.get("p/k") == b"data"


def test_an_external_process_that_fails_is_told(profile):
    """No traceback and nothing of what it printed, but the sentence and exit code for missing credentials."""
    with pytest.raises(NoCredentials) as told:
        open_store(profile("import sys; sys.exit('s3cret')"))
    assert "s3cret" not in told.value.message + told.value.hint
