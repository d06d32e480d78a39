"""A secret of Secrets Manager, in the shape that RDS gives it."""

from __future__ import annotations

import json
import os
import time
from typing import Any, NamedTuple
from urllib.parse import quote

from .errors import PasswordUnavailable
from .waits import in_thread

EXTENSION_PORT = 2773
"""Where the AWS Parameters and Secrets Lambda Extension listens unless its own variable says otherwise."""

TIMEOUT = 3.0
"""Seconds for one request; shorter where the deadline is near."""

_REMEDIES = {
    "AccessDeniedException": "allow the function's role secretsmanager:GetSecretValue, and kms:Decrypt on its key",
    "ResourceNotFoundException": "check TIDEGATE_SECRET_ARN and its region",
    "DecryptionFailure": "allow the function's role kms:Decrypt on the secret's key",
    "InvalidRequestException": "the secret may be marked for deletion; restore it",
}


class Secret(NamedTuple):
    """What a secret says; None where it says nothing."""

    username: str
    password: str
    host: str | None
    port: int | None
    dbname: str | None

    def __repr__(self) -> str:
        return f"Secret(username={self.username!r}, host={self.host!r})"


def read(arn: str, deadline: float | None = None, *, fresh: bool = False) -> Secret:
    """Read a secret, through the AWS Parameters and Secrets Lambda Extension if there is one, else with boto3.

    Parameters: `deadline`, on time.monotonic()'s clock; `fresh`: past the extension, which keeps what it has read
    for minutes.
    Raises: PasswordUnavailable, which names the ARN and never shows what is in the secret.
    """
    text = None if fresh else _from_extension(arn, deadline)
    if text is None:
        text = _from_boto3(arn, deadline) if deadline is None else _from_boto3_in_time(arn, deadline)
    return _parse(arn, text)


def _timeout(deadline: float | None) -> float:
    return TIMEOUT if deadline is None else max(0.05, min(TIMEOUT, deadline - time.monotonic()))


def _from_extension(arn: str, deadline: float | None) -> str | None:
    """None where there is no extension, or it cannot say; then boto3's answer is the one to report."""
    port = os.environ.get("PARAMETERS_SECRETS_EXTENSION_HTTP_PORT")
    session_token = os.environ.get("AWS_SESSION_TOKEN")
    # Outside Lambda, whoever listens on that port is not the extension, and the session token is not for them.
    if not session_token or not (port or "AWS_LAMBDA_RUNTIME_API" in os.environ):
        return None
    from . import http

    target = http.Target(
        "http",
        "localhost",
        int(port) if port and port.isdigit() else EXTENSION_PORT,
        f"/secretsmanager/get?secretId={quote(arn, safe='')}",
    )
    try:
        # During INIT the extension answers 400: it does not serve before the first invocation.
        status, body = http.get(target, {"X-Aws-Parameters-Secrets-Token": session_token}, _timeout(deadline))
        found = json.loads(body) if status == 200 else {}
    except (OSError, ValueError):
        return None
    text = found.get("SecretString") if isinstance(found, dict) else None
    return text if isinstance(text, str) else None


def _from_boto3_in_time(arn: str, deadline: float) -> str:
    # boto3's timeouts are for each step of each of its attempts, and it pauses between them as long as it likes.
    try:
        return in_thread(lambda: _from_boto3(arn, deadline), deadline)
    except TimeoutError:
        raise PasswordUnavailable(
            f"the secret {arn} cannot be read: no answer in time; in a VPC, Secrets Manager needs a VPC endpoint or a"
            " NAT gateway"
        ) from None


def _from_boto3(arn: str, deadline: float | None) -> str:
    try:
        import boto3
        from botocore.config import Config as BotoConfig
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise PasswordUnavailable(
            f"the secret {arn} cannot be read: neither the AWS Parameters and Secrets Lambda Extension nor boto3 is"
            " there; add one of them to the function"
        ) from None
    timeout = _timeout(deadline)
    config = BotoConfig(
        connect_timeout=timeout, read_timeout=timeout, retries={"mode": "standard", "total_max_attempts": 3}
    )
    try:
        client = boto3.session.Session().client("secretsmanager", region_name=arn.split(":")[3], config=config)
        try:
            answer: dict[str, Any] = client.get_secret_value(SecretId=arn)
        finally:
            client.close()
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "an unknown error"))
        remedy = _REMEDIES.get(code, "it is read again at the next attempt")
        raise PasswordUnavailable(f"the secret {arn} cannot be read: {code}; {remedy}") from error
    except BotoCoreError as error:
        raise PasswordUnavailable(
            f"the secret {arn} cannot be read: {error}; in a VPC, Secrets Manager needs a VPC endpoint or a NAT gateway"
        ) from error
    text = answer.get("SecretString")
    if not isinstance(text, str):
        raise PasswordUnavailable(f"the secret {arn} holds binary data: it must be text, a JSON object")
    return text


def _parse(arn: str, text: str) -> Secret:
    try:
        found = json.loads(text)
    except ValueError:
        found = None  # without the cause, which quotes the text
    if not isinstance(found, dict):
        raise PasswordUnavailable(
            f'the secret {arn} is not a JSON object: it must look like {{"username": "...", "password": "..."}}'
        )
    engine = found.get("engine")
    if engine is not None and "postgres" not in str(engine):
        raise PasswordUnavailable(f"the secret {arn} is not one for PostgreSQL: its engine must be postgres")
    for name in ("username", "password"):
        if not isinstance(found.get(name), str) or not found[name]:
            raise PasswordUnavailable(f"the secret {arn} has no {name}: it must have one, a text that is not empty")
    for name in ("host", "dbname"):
        if found.get(name) is not None and not isinstance(found[name], str):
            raise PasswordUnavailable(f"the {name} in the secret {arn} is not a text")
    for name in ("username", "password", "host", "dbname"):
        if not _is_sendable(found.get(name) or ""):
            raise PasswordUnavailable(
                f"the {name} in the secret {arn} holds a NUL character or half of a surrogate pair"
            )
    return Secret(
        found["username"],
        found["password"],
        found.get("host") or None,
        _port(arn, found.get("port")),
        found.get("dbname") or None,
    )


def _is_sendable(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _port(arn: str, value: object) -> int | None:
    if value is None or value == "":
        return None
    text = str(value)
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise PasswordUnavailable(f"the port in the secret {arn} is not a number from 1 to 65535")
    return int(text)
