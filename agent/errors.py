"""What can go wrong: exit codes, the errors of a transfer, and what the answers of an S3 store mean.

`ANSWERS` is the one table of those meanings, as data: the operator's side judges by it, too, and the upload form's
script is generated from it. Imports nothing of ours.
"""

import re
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every `agent` command, which errors carry as `exit`."""

    OK = 0
    JOB_FAILED = 1
    USAGE = 2
    NO_GRANT = 3  # there is none, or it can't be read
    EXPIRED = 4
    REFUSED = 5
    SOME_FAILED = 6
    UNREACHABLE = 7
    DAMAGED = 8
    UNSUPPORTED_GRANT = 9
    INTERRUPTED = 130


# What a store's answer means: rows of a meaning and a pattern, which is looked for in "CODE STATUS": the Code of the
# answer's XML, which may be empty, and its HTTP status. The first row whose pattern is found counts; what fits none is
# "refused". Before all rows, an answer with EXPIRED in its Code or Message is "expired". The patterns mean the same in
# JavaScript.
EXPIRED = "xpired"
ANSWERS = (
    ("damaged", "Digest|Checksum"),
    ("busy", "^RequestTimeout |^Incompl| ([12]..|408|429|50[02-9]|5[1-9].)$"),
    ("permanent", "Signature|AccessKey|NoSuchBucket|Redirect|NotImpl"),
)
# For those who tell answers apart more finely than the agent has to; these come before the rows above.
FINE_ANSWERS = (
    ("credentials", "Signature|AccessKey|InvalidToken|InvalidClientTokenId"),
    ("no bucket", "NoSuchBucket"),
    ("elsewhere", "Redirect| 30.$"),
    ("unsupported", "NotImpl|MethodNot|Unsupported| (405|501)$"),
    ("busy", "SlowDown|InternalError|ServiceUnavailable|Throttling|OperationAborted| 5..$"),
    ("absent", "NoSuchKey|NoSuchUpload| 404$"),
    ("changed", "PreconditionFailed| 412$"),
)


class TransferError(Exception):
    """An attempt to fetch or store something failed; the text says why. `exit` is an ExitCode.

    UNREACHABLE and DAMAGED are worth another try, not before `wait` seconds, unless the error is `permanent`: no other
    attempt, of any file, would fare better.
    """

    def __init__(self, text, exit=ExitCode.UNREACHABLE, permanent=False, wait=0):  # noqa: A002 - it is the exit code
        Exception.__init__(self, text)
        self.exit, self.permanent, self.wait = exit, permanent, wait


class FileChanged(TransferError):
    """The file changed while it was read."""

    def __init__(self, text="it changed while it was read"):
        TransferError.__init__(self, text, ExitCode.SOME_FAILED)


def meaning(status, code, message, answers=ANSWERS):
    """Return what an answer means, by rows such as ANSWERS."""
    if EXPIRED in code + message:
        return "expired"
    for found, pattern in answers:
        if re.search(pattern, "%s %d" % (code, status)):
            return found
    return "refused"


def parse_reply(body):
    """Return Code and Message of an error's XML (bytes), each empty where there is none."""
    tags = "Code", "Message"
    return [(re.findall("<%s>([^<]*)" % tag, body.decode("utf-8", "replace")) or [""])[0] for tag in tags]


def error_from_reply(status, headers, body, late):
    """Return the TransferError that a reply stands for. `late`: by our own clock the grant has expired."""
    code, text = parse_reply(body)
    # AWS quotes the condition that failed. Its field's name may be shown, but no value and nothing like a secret.
    text = re.sub(r'", *"[^"$].*|[\w+/=%]{20,}', "…", text)
    found = meaning(status, code, text)
    text = "".join(filter(str.isprintable, "the store answered %d %.40s: %.200s" % (status, code, text)))
    if found == "expired" or (late and status == 403):
        return TransferError("the grant has expired; " + text, ExitCode.EXPIRED, True)
    if found in ("damaged", "busy"):
        code = ExitCode.DAMAGED if found == "damaged" else ExitCode.UNREACHABLE
        return TransferError(text, code, wait=retry_after(headers))
    return TransferError(text, ExitCode.REFUSED, found == "permanent")


def retry_after(headers):
    """Return the seconds that a reply asks us to wait, two minutes at most; 0 when it doesn't say."""
    wait = headers.get(b"retry-after", b"")
    return min(120, int(wait)) if wait.isdigit() else 0
