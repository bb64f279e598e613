"""Exit codes, and the one table of what S3's answers mean."""

import re

import pytest

from agent import main
from agent.errors import ANSWERS, FINE_ANSWERS, ExitCode, error_from_reply, meaning

XML = "<Error><Code>%s</Code><Message>%s</Message></Error>"


def test_the_commands_text_lists_every_exit_code():
    """The docstring of `agent.main` has the codes of the enum, by number and name, and no other."""
    listed = re.findall(r"^    (\d+) +([A-Z_]+) ", main.__doc__, re.MULTILINE)
    assert [(int(number), name) for number, name in listed] == [(code.value, code.name) for code in ExitCode]


@pytest.mark.parametrize(
    ("status", "code", "message", "coarse", "fine"),
    [
        (403, "AccessDenied", "Request has expired", "expired", "expired"),
        (400, "ExpiredToken", "The provided token has expired.", "expired", "expired"),
        (400, "BadDigest", "", "damaged", "damaged"),
        (400, "XAmzContentChecksumMismatch", "", "damaged", "damaged"),
        (400, "RequestTimeout", "", "busy", "busy"),
        (400, "IncompleteBody", "", "busy", "busy"),
        (503, "SlowDown", "", "busy", "busy"),
        (500, "InternalError", "", "busy", "busy"),
        (200, "InternalError", "", "busy", "busy"),
        (429, "", "", "busy", "busy"),
        (510, "", "", "busy", "busy"),
        (520, "", "", "busy", "busy"),
        (408, "", "", "busy", "busy"),
        (403, "SignatureDoesNotMatch", "", "permanent", "credentials"),
        (403, "InvalidAccessKeyId", "", "permanent", "credentials"),
        (404, "NoSuchBucket", "", "permanent", "no bucket"),
        (301, "PermanentRedirect", "", "permanent", "elsewhere"),
        (501, "NotImplemented", "", "permanent", "unsupported"),
        (405, "MethodNotAllowed", "", "refused", "unsupported"),
        (404, "NoSuchKey", "", "refused", "absent"),
        (404, "", "", "refused", "absent"),
        (412, "PreconditionFailed", "", "refused", "changed"),
        (403, "AccessDenied", "Access Denied", "refused", "refused"),
        (400, "EntityTooLarge", "", "refused", "refused"),
        (403, "RequestTimeTooSkewed", "", "refused", "refused"),
    ],
)
def test_what_an_answer_means(status, code, message, coarse, fine):
    """Each answer by the agent's rows, and by the finer ones before them: never busy in one and final in the other."""
    assert meaning(status, code, message) == coarse
    assert meaning(status, code, message, FINE_ANSWERS + ANSWERS) == fine


@pytest.mark.parametrize(
    ("found", "exit_code", "permanent"),
    [
        ("RequestTimeout", ExitCode.UNREACHABLE, False),
        ("BadDigest", ExitCode.DAMAGED, False),
        ("ExpiredToken", ExitCode.EXPIRED, True),
        ("SignatureDoesNotMatch", ExitCode.REFUSED, True),
        ("EntityTooLarge", ExitCode.REFUSED, False),
    ],
)
def test_what_the_agent_makes_of_it(found, exit_code, permanent):
    """A meaning is an exit code, and whether any other attempt would fare better."""
    error = error_from_reply(400, {}, (XML % (found, "no")).encode(), late=False)
    assert (error.exit, error.permanent) == (exit_code, permanent)


@pytest.mark.parametrize("pattern", [pattern for _, pattern in ANSWERS + FINE_ANSWERS])
def test_the_patterns_are_javascripts_too(pattern):
    """The upload form's script judges by the same patterns: they keep to what both languages know."""
    assert re.fullmatch(r"[\w ^$|.()\[\]-]+", pattern)
