"""Calls to AWS, in threads of their own: Secrets Manager's values and RDS's tokens."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tidegate_proxy.settings.aws import region_of

CONNECT_TIMEOUT, READ_TIMEOUT = 3, 5
ATTEMPTS = 3
"""Seconds, and the attempts of botocore's standard retry mode, which waits up to some seconds in between."""

_THREADS = 4
_RDS_HOST = re.compile(r".+\.([a-z0-9-]+)\.rds\.amazonaws\.com(?:\.cn)?\.?", re.IGNORECASE)
_TRANSIENT = {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"}


class AwsError(Exception):
    """A call that failed. `str()` says why and what would help, for an operator; it holds no secret.

    `transient`: it may work later without anybody changing anything.
    """

    def __init__(self, text: str, *, transient: bool = False) -> None:
        super().__init__(text)
        self.transient = transient


@dataclass(frozen=True, slots=True)
class SecretValue:
    """One version of a secret: its id, and its text, None where it is binary."""

    version: str
    text: str | None = field(repr=False)
    binary: bytes | None = field(default=None, repr=False)


class Aws:
    """AWS as this process may use it, with credentials from where boto3 finds them: the task's role, as a rule.

    Parameters: `region`, for what does not say its own; None leaves it to AWS's usual configuration.
    """

    def __init__(self, region: str | None) -> None:
        self.calls: Counter[str] = Counter()
        """How often each operation was called, retries of botocore's not counted."""
        self.failures: Counter[str] = Counter()
        """How often each operation failed."""
        self._region = region
        # Threads of our own: the loop's are for resolving names, which must not wait behind a slow call.
        # And tokens have theirs: they are signed here, and must not wait behind a Secrets Manager that does not answer.
        self._secret_threads = ThreadPoolExecutor(_THREADS, "secrets")
        self._token_threads = ThreadPoolExecutor(_THREADS, "tokens")
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._session: Any = None
        self._clients: dict[tuple[str, str | None], Any] = {}

    def close(self) -> None:
        """Take no more calls."""
        for threads in (self._secret_threads, self._token_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    async def secret_values(self, secret: str, stages: Iterable[str]) -> dict[str, SecretValue]:
        """Versions of a secret, by staging label; one without a version, or that must not be read, is left out, but for
        AWSCURRENT.

        Raises: AwsError.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._secret_threads, self.read_secret, secret, tuple(stages))

    def read_secret(self, secret: str, stages: Iterable[str]) -> dict[str, SecretValue]:
        """The same for a thread that may wait, some 30 seconds at most. Raises: AwsError."""
        with self._counted("GetSecretValue"):
            return self._read_secret(secret, stages)

    async def rds_token(self, host: str, port: int, user: str) -> str:
        """A token with which `user` can log in to the RDS endpoint within the next 15 minutes. Raises: AwsError."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._token_threads, self._rds_token, host, port, user)

    @contextlib.contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        with self._counting:
            self.calls[name] += 1
        try:
            yield
        except AwsError:
            with self._counting:
                self.failures[name] += 1
            raise

    def _read_secret(self, secret: str, stages: Iterable[str]) -> dict[str, SecretValue]:
        found = {}
        for stage in stages:
            try:
                client = self._client("secretsmanager", region_of(secret) or self._region)
                answer = client.get_secret_value(SecretId=secret, VersionStage=stage)
            except Exception as error:
                failure = _explained(error, "Secrets Manager", f'secret "{secret}"')
                if stage == "AWSCURRENT" or failure.transient:
                    raise failure from None
                continue
            found[stage] = SecretValue(
                str(answer.get("VersionId", "")), answer.get("SecretString"), answer.get("SecretBinary")
            )
        return found

    def _rds_token(self, host: str, port: int, user: str) -> str:
        named = _RDS_HOST.fullmatch(host)
        region = named[1] if named else self._region
        with self._counted("GenerateDBAuthToken"):
            try:
                client = self._client("rds", region)
                token = client.generate_db_auth_token(
                    DBHostname=host, Port=port, DBUsername=user, Region=region or client.meta.region_name
                )
            except Exception as error:
                raise _explained(error, "RDS", f'the IAM token for user "{user}" at {host}:{port}') from None
            return str(token)

    def _client(self, service: str, region: str | None) -> Any:
        # A session must not be used by two threads at a time; a client may.
        with self._lock:
            client = self._clients.get((service, region))
            if client is None:
                # Here and not above: they take a quarter of a second that proxies without AWS need not spend.
                import boto3
                from botocore.config import Config

                if self._session is None:
                    self._session = boto3.session.Session()
                config = Config(
                    connect_timeout=CONNECT_TIMEOUT,
                    read_timeout=READ_TIMEOUT,
                    retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                )
                client = self._session.client(service, region_name=region, config=config)
                self._clients[service, region] = client
            return client


def _explained(error: Exception, service: str, what: str) -> AwsError:
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "ResourceNotFoundException":
            return AwsError(f"{what} does not exist in its region and account: correct its name or ARN")
        transient = code in _TRANSIENT or status >= 500
        if status >= 500 and not _remedy(code):
            return AwsError(f"{what}: {service} has a fault of its own ({code}); it is asked again", transient=True)
        return AwsError(f"{what}: {service} refuses it: {code}{_remedy(code)}", transient=transient)
    if isinstance(error, exceptions.NoRegionError):
        other = ", or give the secret by its ARN" if service == "Secrets Manager" else ""
        return AwsError(f"{what}: no AWS region is known: set aws_region{other}")
    if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
        return AwsError(f"{what}: there are no AWS credentials: give the task or the instance a role")
    if isinstance(error, exceptions.CredentialRetrievalError):
        return AwsError(f"{what}: the AWS credentials of the task can't be had at present", transient=True)
    if isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError)):
        return AwsError(
            f"{what}: {service} can't be reached ({type(error).__name__}): check the region, and the route, security "
            "group or VPC endpoint to it",
            transient=True,
        )
    # Texts of other errors may name what was sent.
    return AwsError(f"{what}: the call to {service} failed: {type(error).__name__}", transient=True)


def _remedy(code: str) -> str:
    if code.startswith("AccessDenied"):
        return ": allow the proxy's role secretsmanager:GetSecretValue on it, and kms:Decrypt on its key"
    return {
        "DecryptionFailure": ": allow the proxy's role kms:Decrypt on the secret's key",
        "InvalidRequestException": ": it is marked for deletion, or has no value yet: restore it or give it one",
        "UnrecognizedClientException": ": the AWS credentials are not valid: renew them",
        "InvalidSignatureException": ": the AWS credentials are not valid: renew them",
        "ExpiredTokenException": ": the AWS credentials have expired: renew them",
        "ValidationException": ": correct its name or ARN",
    }.get(code, "")
