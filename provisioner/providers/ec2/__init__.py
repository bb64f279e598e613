"""The ``ec2`` provider: Amazon EC2 and clouds that speak its API. `provider` puts the parts together."""

from __future__ import annotations

from provisioner.providers.ec2.provider import Ec2Provider

__all__ = ["Ec2Provider"]
