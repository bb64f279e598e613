"""Opening a bucket: one request at most, and what fails is told as what it is."""

import http.server
import threading

import botocore.exceptions as boto_errors
import pytest

from provisioner import boto
from provisioner.errors import BadInput, NoCredentials, Unreachable
from provisioner.jobs import stores
from provisioner.jobs.index import StoreLocation
from provisioner.providers.ec2.errors import translate
from provisioner.retry import Retry
from provisioner.s3.answers import error_from_boto
from provisioner.s3.bucket import open_store
from provisioner.s3url import StoreSpec

# One of each, as botocore makes them.
CREDENTIALS = [
    boto_errors.NoCredentialsError(),
    boto_errors.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
    boto_errors.CredentialRetrievalError(provider="process", error_msg="secret"),
    boto_errors.UnauthorizedSSOTokenError(),
    boto_errors.TokenRetrievalError(provider="sso", error_msg="secret"),
    boto_errors.RefreshWithMFAUnsupportedError(),
]


@pytest.fixture
def busy(monkeypatch):
    """A service that is busy, in AWS's place; the requests that it got."""
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            got.append(self.path)
            self.send_response(503)
            self.end_headers()

        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        yield got
        server.shutdown()


def test_a_busy_store_is_asked_once_for_the_buckets_region(busy):
    """Trying again is left to `provisioner.retry`: botocore would, five times, within one call."""
    with pytest.raises(Unreachable, match="find the bucket's region"):
        open_store(StoreSpec("bucket"))
    assert len(busy) == 1


def test_opening_a_store_is_tried_again(busy, monkeypatch):
    """As every other request to it."""
    monkeypatch.setattr(stores, "DEFAULT_RETRY", Retry(attempts=3, sleep=lambda _: None))
    with pytest.raises(Unreachable):
        stores.open_location(StoreLocation(StoreSpec("bucket"), embedded=False))
    assert len(busy) == 3


@pytest.mark.parametrize("error", CREDENTIALS, ids=lambda error: type(error).__name__)
def test_stores_and_clouds_agree_on_credentials_that_are_missing(error):
    """No try helps, so none is made; and what a program printed stays untold."""
    assert isinstance(error, boto.NO_CREDENTIALS)
    for found in (error_from_boto(error, "read it", bucket="b"), translate(error, "RunInstances")):
        assert type(found) is NoCredentials
        assert "secret" not in found.message + found.hint


def test_a_parameter_is_named_without_its_value():
    """What botocore itself refuses is the operator's to correct."""
    error = boto_errors.ParamValidationError(report='Invalid length for parameter RoleArn, value: 6, "secret"')
    found = error_from_boto(error, "assume the role", bucket="")
    assert type(found) is BadInput
    assert "RoleArn" in found.message
    assert "secret" not in found.message
