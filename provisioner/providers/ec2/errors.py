"""Turns EC2's errors into ours, whose class says what helps.

============  ==========================================================================
NoCapacity    another type, zone or market
OverQuota     another family or market, or a larger quota
Throttled     the same later, and fewer a second
Unreachable   the same later
Refused       a permission
NoCredentials other credentials; Expiry, when they ended
Conflict      another token: EC2 knows this one with another request, or its VM is dead
NotFound      nothing: it isn't there
BadInput      another request: something the operator wrote
============  ==========================================================================

The codes are those of AWS's "Error codes for the Amazon EC2 API". Some of capacity come with HTTP 500, so the code
is looked at before the status.
"""

from __future__ import annotations

import re
from http import HTTPStatus

import botocore.exceptions as boto_errors
from botocore.parsers import ResponseParserError

from provisioner.boto import NO_CREDENTIALS, error_code, error_status, invalid_parameters
from provisioner.errors import (
    BadInput,
    Conflict,
    Expiry,
    FreepostError,
    NoCapacity,
    NoCredentials,
    NotFound,
    OverQuota,
    Refused,
    Throttled,
    Unreachable,
)

CAPACITY = frozenset({
    "InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacity", "InsufficientVolumeCapacity",
    "InsufficientReservedInstanceCapacity", "InsufficientCapacityOnOutpost", "InsufficientFreeAddressesInSubnet",
    "InsufficientAddressCapacity", "InsufficientNetworkInterfaceCapacity", "UnfulfillableCapacity",
    "ReservationCapacityExceeded", "SpotMaxPriceTooLow", "Unsupported", "InvalidFleetConfiguration",
})  # fmt: skip
QUOTA = frozenset({
    "InstanceLimitExceeded", "VcpuLimitExceeded", "MaxSpotInstanceCountExceeded", "MaxSpotFleetRequestCountExceeded",
    "VolumeLimitExceeded", "MaxIOPSLimitExceeded", "AddressLimitExceeded", "PrivateIpAddressLimitExceeded",
    "NetworkInterfaceLimitExceeded", "ResourceLimitExceeded", "ResourceCountLimitExceeded", "FleetLimitExceeded",
})  # fmt: skip
THROTTLE = frozenset({
    "RequestLimitExceeded", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled",
    "RequestThrottledException", "TooManyRequestsException", "BandwidthLimitExceeded", "EC2ThrottledException",
})  # fmt: skip
TRANSIENT = frozenset({
    "InternalError", "InternalFailure", "InternalServerError", "ServerInternal", "ServiceUnavailable", "Unavailable",
    "RequestTimeout", "RequestTimeoutException", "500", "502", "503", "504",
})  # fmt: skip
PERMISSION = frozenset({
    "UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "OptInRequired", "PendingVerification", "Blocked",
    "InvalidAction.Permission", "SignInRequired", "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
})  # fmt: skip
CREDENTIALS = frozenset({
    "AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidAccessKeyId",
    "MissingAuthenticationToken", "IncompleteSignature", "InvalidSignatureException", "InvalidToken",
})  # fmt: skip
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
CONFLICT = frozenset({"IdempotentParameterMismatch", "IdempotentInstanceTerminated"})
_ABSENT = (boto_errors.NoCredentialsError, boto_errors.PartialCredentialsError)
_SENTENCE_LENGTH = 300  # characters of EC2's own sentence
SERVICES = {"ec2": "EC2", "ssm": "SSM", "sts": "STS", "service-quotas": "Service Quotas"}


def classify(code: str, sentence: str, action: str, status: int = 0, service: str = "ec2") -> FreepostError:
    """Return the error that EC2's `code`, sentence and HTTP status mean. `action` names the call, of `service`."""
    # A call may need the permission of another, as RunInstances does to tag.
    missing = re.search(r"to perform:? ([a-z0-9-]+:[A-Za-z]+)", sentence)
    sentence = re.sub(r"\s*Encoded authorization failure message:.*", "", sentence, flags=re.DOTALL)[
        :_SENTENCE_LENGTH
    ].strip()
    text = f"{SERVICES.get(service, service)} answered {action} with {code or status}" + f": {sentence}" * bool(
        sentence
    )
    if code in CAPACITY:
        return NoCapacity(text, hint="name more types, zones or markets, or try again later")
    if code in QUOTA:
        return OverQuota(
            text, hint="ask for a larger quota (Service Quotas, Amazon EC2), or use another family or market"
        )
    if code in THROTTLE:
        return Throttled(text, hint="try again later; nothing was lost")
    if code in CONFLICT:
        return Conflict(text, hint="the next attempt has a token of its own: provision retry")
    if code in EXPIRED:
        return Expiry(text, hint="sign in again, and check this machine's clock")
    if code in CREDENTIALS:
        return NoCredentials(text, hint="check the keys, the session and the region (vm.profile, vm.region)")
    if code in PERMISSION:
        needed = missing[1] if missing else f"{service.replace('-', '')}:{action}"
        return Refused(text, hint=f"the credentials need the permission {needed}")
    if code in TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unreachable(text, hint="try again later")
    if code.startswith(("InvalidInstanceID.", "InvalidLaunchTemplateId.", "InvalidLaunchTemplateName.NotFound")):
        return NotFound(text)
    return BadInput(text, hint="correct what it names under vm in job.yaml")


def translate(error: Exception, action: str, service: str = "ec2") -> FreepostError:
    """Turn an error of botocore into one of ours; never quotes a parameter's value, which may be the user-data."""
    name = SERVICES.get(service, service)
    if isinstance(error, boto_errors.ClientError):
        sentence = str(error.response.get("Error", {}).get("Message", ""))
        return classify(error_code(error), sentence, action, error_status(error), service)
    if isinstance(error, boto_errors.ParamValidationError):
        return BadInput(f"EC2 does not accept {invalid_parameters(error)} in {action}")
    if isinstance(error, _ABSENT):
        return NoCredentials(
            "there are no credentials for EC2", hint="set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if isinstance(error, NO_CREDENTIALS):
        return NoCredentials("the credentials for EC2 can't be fetched", hint="sign in again")
    if isinstance(error, (boto_errors.ProfileNotFound, boto_errors.NoRegionError, boto_errors.InvalidRegionError)):
        return BadInput(str(error), hint="set vm.region, and vm.profile to a profile of ~/.aws/config")
    if isinstance(error, ValueError):  # what botocore raises of an endpoint that is no URL
        return BadInput(f"{name} can't be where vm.endpoint_url says", hint="correct vm.endpoint_url")
    if isinstance(error, ResponseParserError):
        return Unreachable(f"what answered {action} is not {name}", hint="check vm.endpoint_url, and the proxy if any")
    return Unreachable(
        f"{name} can't be reached for {action}: {type(error).__name__}", hint="check vm.endpoint_url and the network"
    )
