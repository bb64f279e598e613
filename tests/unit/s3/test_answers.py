"""What a store's answers mean: each to the error that it is, for every code that stores were seen to give."""

import botocore.exceptions
import pytest

from provisioner.errors import (
    Expiry,
    Integrity,
    NoCredentials,
    NotFound,
    Refused,
    Unreachable,
    Unsupported,
)
from provisioner.s3.answers import Answer, error_from_boto


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (503, "SlowDown", Unreachable),
        (500, "InternalError", Unreachable),
        (200, "InternalError", Unreachable),  # as CompleteMultipartUpload may answer
        (503, "", Unreachable),
        (522, "", Unreachable),
        (400, "RequestTimeout", Unreachable),
        (409, "OperationAborted", Unreachable),
        (429, "", Unreachable),
        (403, "InvalidAccessKeyId", NoCredentials),
        (403, "SignatureDoesNotMatch", NoCredentials),
        (400, "InvalidToken", NoCredentials),
        (403, "InvalidClientTokenId", NoCredentials),
        (400, "ExpiredToken", Expiry),
        (404, "NoSuchBucket", NotFound),
        (404, "NoSuchKey", NotFound),
        (404, "NoSuchUpload", NotFound),
        (404, "404", NotFound),
        (412, "PreconditionFailed", Integrity),
        (412, "412", Integrity),
        (400, "BadDigest", Integrity),
        (501, "NotImplemented", Unsupported),
        (405, "MethodNotAllowed", Unsupported),
        (501, "", Unsupported),
        (301, "PermanentRedirect", Refused),
        (403, "AccessDenied", Refused),
        (400, "EntityTooLarge", Refused),
        (403, "", Refused),
    ],
)
def test_each_answer_is_one_error(status, code, kind):
    """The very class decides what is tried again, and the exit code; the text says what was asked for, or of whom."""
    error = Answer(status, code).error("read it", bucket="b")
    assert type(error) is kind
    raw = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    again = error_from_boto(botocore.exceptions.ClientError(raw, "GetObject"), "read it", bucket="b")
    assert (type(again), again.message, again.hint) == (kind, error.message, error.hint)
    assert any(word in error.message for word in ("could not read it", "there is no bucket b", "the credentials"))


def test_what_has_expired_may_be_said_in_the_message_alone():
    """As S3 says it of a policy."""
    assert Answer(403, "AccessDenied", "Invalid according to Policy: Policy expired.").meaning == "expired"


def test_no_message_of_a_request_of_ours_is_quoted():
    """It may hold parts of the request, which are secret."""
    raw = {"Error": {"Code": "AccessDenied", "Message": "AKIDEXAMPLE"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    error = error_from_boto(botocore.exceptions.ClientError(raw, "GetObject"), "read it", bucket="b")
    assert "AKIDEXAMPLE" not in error.message + error.hint
