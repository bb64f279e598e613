"""Makes one call to EC2: waits for its turn under the limits, sends one request, turns its error into one of ours."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, TypeAlias

import botocore.exceptions as boto_errors
from botocore.parsers import ResponseParserError
from botocore.session import Session

from provisioner.boto import BotoClient, client_config, expiry, make_session
from provisioner.errors import BadInput, Throttled
from provisioner.providers.ec2.errors import translate
from provisioner.providers.ec2.rate import RateLimits

Answer: TypeAlias = Any  # botocore builds its answers from the service's model

PAGE = 1000  # the most that DescribeInstances gives, and the most ids that a call takes
CONNECTIONS = 32


class Api:
    """EC2, and the other services that launching needs, in the region and with the profile that a job names."""

    def __init__(self, options: Mapping[str, Any], limits: RateLimits | None = None) -> None:
        self._options = options
        self._clients: dict[str, BotoClient] = {}
        self._lock = threading.RLock()
        self._session: Session | None = None
        self.endpoint_url: str | None = options.get("endpoint_url")
        self.limits = limits or RateLimits(bounded=self.endpoint_url is None)

    @property
    def session(self) -> Session:
        """The session of the job's profile, made when it is first needed."""
        with self._lock:
            if self._session is None:
                try:
                    self._session = make_session(self._options.get("profile"))
                except boto_errors.BotoCoreError as error:
                    raise translate(error, "find credentials") from None
            return self._session

    @property
    def credentials_expire(self) -> datetime | None:
        """When the credentials expire; None for long-lived ones. Raise NoCredentials where they can't be fetched."""
        try:
            found = self.session.get_credentials()
            if found is not None:
                found.get_frozen_credentials()  # some are fetched only now
        except boto_errors.BotoCoreError as error:
            raise translate(error, "find credentials") from None
        return expiry(found)

    @property
    def region(self) -> str:
        """The job's region, or the one that this machine is configured for. Raise BadInput where there is neither."""
        found = self._options.get("region") or self.session.get_config_variable("region")
        if found is None and self.endpoint_url:
            found = "us-east-1"  # a cloud with an endpoint of its own seldom cares
        if found is None:
            raise BadInput("the job names no region", hint="set vm.region, or AWS_DEFAULT_REGION")
        return str(found)

    def client(self, service: str = "ec2") -> BotoClient:
        """Return a client; any number of threads may share it."""
        with self._lock:
            if service not in self._clients:
                try:
                    self._clients[service] = self.session.create_client(
                        service,
                        region_name=self.region,
                        endpoint_url=self.endpoint_url,
                        config=client_config(max_pool_connections=CONNECTIONS),
                    )
                except (boto_errors.BotoCoreError, ValueError) as error:
                    raise translate(error, f"find {service}", service) from None
            return self._clients[service]

    def call(
        self, action: str, parameters: Mapping[str, Any] | None = None, *, instances: int = 0, service: str = "ec2"
    ) -> Answer:
        """Make one request, when its turn has come. `action` is botocore's name, `instances` the VMs it starts."""
        client = self.client(service)
        buckets = [self.limits.bucket(action), *([self.limits.bucket("instances")] if instances else [])]
        for bucket, tokens in zip(buckets, (1, instances), strict=False):
            bucket.take(tokens)
        name = client.meta.method_to_api_mapping[action]
        try:
            answer = getattr(client, action)(**(parameters or {}))
        except (boto_errors.BotoCoreError, boto_errors.ClientError, ResponseParserError) as error:
            found = translate(error, name, service)
            if isinstance(found, Throttled):
                for bucket in buckets:
                    bucket.slow_down()
            raise found from None
        for bucket in buckets:
            bucket.speed_up()
        return answer

    def paginate(self, action: str, key: str, parameters: Mapping[str, Any]) -> Iterator[Answer]:
        """Yield every item below `key` of a paged answer, each page a call of its own."""
        token: dict[str, Any] = {}
        while True:
            answer = self.call(action, {**parameters, **token})
            yield from answer[key]
            if not answer.get("NextToken"):
                return
            token = {"NextToken": answer["NextToken"]}


def find_instance_ids(sentence: str) -> set[str]:
    """Return the instance ids that an error's sentence names."""
    return set(re.findall(r"\bi-[0-9a-f]+", sentence))
