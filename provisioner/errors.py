"""One class per kind of failure: what happened, what to do next, and the exit code a script can rely on.

Messages never hold a policy, signature, key, token or presigned query.
"""

from __future__ import annotations

from collections.abc import Sequence


class FreepostError(Exception):
    """A failure that a person can act on. `cli.app` prints it and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class JobFailed(FreepostError):
    """A task of the job failed or was lost."""

    exit_code = 1


class BadInput(FreepostError):
    """Something the operator wrote (a flag, a job.yaml) is wrong. `faults` lists each thing that is.

    `argument` names the function's argument that is wrong, and begins the message (``max_bytes: …``); the command line
    shows it as the option of the same name (``--max-bytes: …``).
    """

    exit_code = 2

    def __init__(self, message: str, *, argument: str = "", hint: str = "", faults: Sequence[str] = ()) -> None:
        super().__init__(f"{argument}: {message}" if argument else message, hint=hint)
        self.argument = argument
        self.faults = tuple(faults)

    @property
    def option_message(self) -> str:
        """The message as the command line shows it."""
        if not self.argument:
            return self.message
        return f"--{self.argument.replace('_', '-')}{self.message.removeprefix(self.argument)}"


class NoCredentials(FreepostError):
    """There are no credentials to sign with, or the service doesn't know them."""

    exit_code = 3


class Expiry(FreepostError):
    """Credentials or a policy end, or ended, too early."""

    exit_code = 4


class Refused(FreepostError):
    """The store or the provider answered, and the answer was no."""

    exit_code = 5


class NoForms(Refused):
    """The store takes no uploads by form; presigned PUTs may do."""


class Unsupported(Refused):
    """The store has no such thing, or takes it and doesn't act on it: trying again is no help."""


class NoCapacity(Refused):
    """The provider has no room for this type, zone or market; another choice may have it."""


class OverQuota(NoCapacity):
    """The account may not have this much of it; another family, region or market has a quota of its own."""


class Conflict(Refused):
    """The provider has seen this token with another request, and knows no VM of it: only a new attempt helps."""


class Incomplete(FreepostError):
    """Some of it worked: results are missing, or some VMs could not be launched."""

    exit_code = 6


class Unreachable(FreepostError):
    """The store or the provider could not be reached, or kept failing."""

    exit_code = 7


class Throttled(Unreachable):
    """The service wants fewer requests; the same one works later."""


class Integrity(FreepostError):
    """What arrived is not what was sent."""

    exit_code = 8


class NotFound(FreepostError):
    """There is no such job, bucket, object or instance."""

    exit_code = 9


class MissingDependency(FreepostError):
    """An extra, a program or a privilege that this command needs is not there."""

    exit_code = 10


class Stopped(FreepostError):
    """Interrupted (Ctrl-C). What waited for its turn was not sent, and isn't tried again."""

    exit_code = 130
