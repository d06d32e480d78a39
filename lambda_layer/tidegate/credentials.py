"""AWS credentials, found as the SDKs find them, without an SDK where that is possible."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .errors import PasswordUnavailable
from .waits import in_thread

CONTAINER_TIMEOUT = 2.0
"""Seconds that one request to the container credentials endpoint may take."""

CONTAINER_ATTEMPTS = 3

_CONTAINER_HOST = "169.254.170.2"
_PLAIN_HOSTS = (_CONTAINER_HOST, "169.254.170.23", "fd00:ec2::23", "localhost")


class Credentials(NamedTuple):
    """What AWS requests are signed with. `expires`: seconds since the epoch, None if nobody says."""

    access_key: str
    secret_key: str
    token: str | None = None
    expires: float | None = None

    def __repr__(self) -> str:
        return f"Credentials(access_key={self.access_key!r}, expires={self.expires})"


def load(environment: Mapping[str, str] | None = None, deadline: float | None = None) -> Credentials:
    """Find credentials: environment variables, then the container credentials endpoint, then botocore's own chain.

    Parameters: `environment`, os.environ if not given; `deadline`, on time.monotonic()'s clock.
    Raises: PasswordUnavailable, also where whoever was asked has not answered by then.
    """
    environment = os.environ if environment is None else environment
    if environment.get("AWS_ACCESS_KEY_ID") and environment.get("AWS_SECRET_ACCESS_KEY"):
        return Credentials(
            environment["AWS_ACCESS_KEY_ID"],
            environment["AWS_SECRET_ACCESS_KEY"],
            environment.get("AWS_SESSION_TOKEN") or None,
            _timestamp(environment.get("AWS_CREDENTIAL_EXPIRATION")),
        )
    url = _container_url(environment)

    def ask() -> Credentials:
        return _from_container(url, environment, deadline) if url else _from_botocore()

    if deadline is None:
        return ask()
    asked = "the container credentials endpoint" if url else "botocore, which looks in many places,"
    if time.monotonic() >= deadline:
        raise PasswordUnavailable(f"no AWS credentials: there was no time left to ask {asked.rstrip(',')}")
    # Their timeouts are for each step, and botocore takes as many steps as it likes.
    try:
        return in_thread(ask, deadline)
    except TimeoutError:
        raise PasswordUnavailable(
            f"no AWS credentials: {asked} had no answer in time; check the role of the function, or set"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from None


def _container_url(environment: Mapping[str, str]) -> str | None:
    if relative := environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        return f"http://{_CONTAINER_HOST}{relative}"
    return environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI") or None


def _from_container(url: str, environment: Mapping[str, str], deadline: float | None) -> Credentials:
    import json

    from . import http

    target = http.parse(url)
    if target.scheme != "https" and not _may_be_plain(target.host):
        raise PasswordUnavailable(
            f"AWS_CONTAINER_CREDENTIALS_FULL_URI names the host {target.host}, and credentials are not asked for in the"
            " clear over a network: it must be this machine, an ECS or EKS endpoint, or an https URL"
        )
    headers = {"Accept": "application/json"}
    if authorization := _container_authorization(environment):
        headers["Authorization"] = authorization
    failure = "there was no time left"
    for attempt in range(CONTAINER_ATTEMPTS):
        timeout = CONTAINER_TIMEOUT if deadline is None else min(CONTAINER_TIMEOUT, deadline - time.monotonic())
        if timeout <= 0:
            break
        try:
            status, body = http.get(target, headers, timeout)
        except OSError as error:
            failure = str(error)
        else:
            if status == 200:
                try:
                    found = json.loads(body)
                    return Credentials(
                        found["AccessKeyId"],
                        found["SecretAccessKey"],
                        found.get("Token"),
                        _timestamp(found.get("Expiration")),
                    )
                except (ValueError, KeyError, TypeError, AttributeError):
                    failure = "its answer does not hold credentials"
                    break
            failure = f"it answered with HTTP status {status}"
            if status < 500 and status != 429:
                break
        pause = 0.05 * 2**attempt
        if deadline is None or time.monotonic() + pause < deadline:
            time.sleep(pause)
    raise PasswordUnavailable(
        f"no credentials from the container credentials endpoint {target.host}:{target.port}: {failure};"
        " check AWS_CONTAINER_CREDENTIALS_FULL_URI and the role of the function"
    )


def _may_be_plain(host: str) -> bool:
    if host in _PLAIN_HOSTS:
        return True
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _container_authorization(environment: Mapping[str, str]) -> str | None:
    if path := environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
        try:
            # Read each time: the file is replaced while we live.
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise PasswordUnavailable(f"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE cannot be read: {error}") from None
    else:
        text = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
    text = text.strip()
    if not text.isascii() or not text.isprintable():
        raise PasswordUnavailable(
            "AWS_CONTAINER_AUTHORIZATION_TOKEN (or the file of its _FILE variant) does not hold one line of ASCII text"
        )
    return text or None


def _from_botocore() -> Credentials:
    try:
        from botocore.session import Session
    except ImportError:
        raise PasswordUnavailable(
            "no AWS credentials: AWS_ACCESS_KEY_ID and AWS_CONTAINER_CREDENTIALS_FULL_URI are not set, and botocore,"
            " which knows more places, is not installed; give the function a role, or set AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY"
        ) from None
    from botocore.exceptions import BotoCoreError

    try:
        found = Session().get_credentials()
        frozen = found.get_frozen_credentials() if found is not None else None
    except BotoCoreError as error:
        raise PasswordUnavailable(f"no AWS credentials: {error}") from error
    if frozen is None:
        raise PasswordUnavailable(
            "no AWS credentials in the environment, nor where botocore looks (profiles, instance role): give the"
            " function a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    # botocore itself renews them ten minutes before they expire, and does not say when that is.
    return Credentials(frozen.access_key, frozen.secret_key, frozen.token)


def _timestamp(text: object) -> float | None:
    if not isinstance(text, str) or not text:
        return None
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
