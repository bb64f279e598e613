"""What a job may say under ``vm`` for EC2."""

from __future__ import annotations

from provisioner.job.fields import PRINTABLE, endpoint_url, flag, mapping, region, text
from provisioner.job.validate import Schema
from provisioner.providers.options import one_or_more

IMAGE = "ssm:/aws/service/debian/release/12/latest/amd64"
TYPE = "t3.small"
MARKETS = ("on-demand", "spot")

_TAGGED = r"tag:[^=]{1,128}=.{0,256}"


SCHEMA: dict[str, Schema] = {
    "region": region("The region."),
    "profile": text("The AWS profile that launches.", "the name of a profile", PRINTABLE, maxLength=200),
    "endpoint_url": endpoint_url("The endpoint of another cloud with EC2's API.", "http://127.0.0.1:5000"),
    "image": text(
        "What boots; anything with cloud-init.",
        "ami-…, ssm:/PARAMETER, or OWNER/NAME-PATTERN for the newest of that name",
        r"^(?:ami-[0-9a-f]+|ssm:/[A-Za-z0-9_./-]+|(?:[0-9]{12}|self|amazon|aws-marketplace)/.+)$",
        maxLength=1100,
        default=IMAGE,
    ),
    "type": one_or_more(
        "Instance types, the best first.",
        text("", "a type such as t3.small", r"^[a-z0-9-]+\.[a-z0-9-]+$"),
        default=TYPE,
    ),
    "zones": one_or_more("Availability zones, the best first.", text("", "a zone such as eu-west-1a", "^[a-z0-9-]+$")),
    "subnets": one_or_more(
        "Subnets, the best first, instead of the default VPC's.",
        text("", "subnet-… or tag:KEY=VALUE", rf"^(?:subnet-[0-9a-f]+|{_TAGGED})$"),
    ),
    "security_groups": one_or_more(
        "Security groups, instead of the VPC's default one.",
        text("", "sg-… or tag:KEY=VALUE", rf"^(?:sg-[0-9a-f]+|{_TAGGED})$"),
    ),
    "market": one_or_more(
        "How VMs are bought, the best first.",
        {**text("", "on-demand or spot"), "enum": list(MARKETS)},
        default="on-demand",
    ),
    "fleet": flag("Let EC2 Fleet choose among the types and zones."),
    "key": text("A key pair for SSH; none if not given.", "the name of a key pair", maxLength=255),
    "instance_profile": text(
        "An instance profile: gives the VM credentials, which Freepost is there to avoid.",
        "the name of an instance profile",
        r"^[\w+=,.@-]+$",
        maxLength=128,
    ),
    "disk": {"type": "integer", "minimum": 1, "maximum": 16_384, "description": "GiB of the root volume."},
    "tags": mapping(
        "Tags on instances and volumes, besides Freepost's own.",
        {},
        additionalProperties={"type": "string", "maxLength": 256},
        propertyNames=text("", "a key of 1 to 128 characters, not freepost:… or aws:…", "^(?!freepost:|aws:).{1,128}$"),
        default={},
    ),
}
