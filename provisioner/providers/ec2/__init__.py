"""The ``ec2`` provider: Amazon EC2 and clouds that speak its API. `provider` puts the parts together.

`options` are the keys under ``vm``, `resolve` turns them into choices, `requests` an order into EC2's requests; `api`
makes one request at a time, within the limits of `rate`, and raises what `errors` makes of EC2's. `preflight` and
`dryrun` are what `provision doctor` asks.
"""

from __future__ import annotations

from provisioner.providers.ec2.provider import Ec2Provider

__all__ = ["Ec2Provider"]
