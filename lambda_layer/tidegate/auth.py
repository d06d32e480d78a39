"""Tokens to log in with: for RDS, Aurora and RDS Proxy, and for the Tidegate proxy. Signed here, without a request."""

from __future__ import annotations

import base64
import time

from .credentials import Credentials, load
from .errors import ConfigurationError
from .signing import presign

TOKEN_LIFE = 900
"""Seconds; AWS accepts no longer life for either kind."""

PROXY_HEADER = "x-tidegate-proxy-id"
TOKEN_PREFIX = "tidegate-v1."  # noqa: S105 (not a secret)

# DNS suffixes of the partitions, by the beginning of their regions' names.
_SUFFIXES = (
    ("cn-", "amazonaws.com.cn"),
    ("us-iso-", "c2s.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov"),
    ("us-isof-", "csp.hci.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk"),
    ("eusc-", "amazonaws.eu"),
)


def generate_token(
    endpoint: str,
    region: str,
    *,
    credentials: Credentials | None = None,
    expires: int = TOKEN_LIFE,
    now: float | None = None,
) -> str:
    """A token that the Tidegate proxy accepts as a password, over TLS.

    It is a presigned STS GetCallerIdentity request, which tells the proxy who signed it and nothing else, and which
    is good for that proxy alone.

    Parameters
    - `endpoint`: the proxy's identifier as its own configuration has it, usually the name that clients connect to.
    - `region`: the AWS region whose STS the proxy asks, such as eu-west-1.
    - `credentials`: who signs; if not given, they are found as the SDKs find them.
    - `expires`: seconds that the token is good for, 1 to 900.
    - `now`: seconds since the epoch; the present if not given.

    Raises: ConfigurationError for an endpoint or a lifetime that cannot be; PasswordUnavailable without credentials.
    """
    if not endpoint or len(endpoint) > 255 or not all("!" <= character <= "~" for character in endpoint):
        raise ConfigurationError(
            f"the proxy's identifier is {endpoint!r}: it must be 1 to 255 visible ASCII characters without spaces,"
            " for example TIDEGATE_PROXY_ID=shop-proxy"
        )
    if not 0 < expires <= TOKEN_LIFE:
        raise ConfigurationError(f"a token cannot be good for {expires} seconds: at most {TOKEN_LIFE}")
    url = presign(
        host=f"sts.{region}.{dns_suffix(region)}",
        parameters={"Action": "GetCallerIdentity", "Version": "2011-06-15"},
        headers={PROXY_HEADER: endpoint},
        service="sts",
        region=region,
        credentials=credentials or load(),
        expires=expires,
        now=time.time() if now is None else now,
    )
    return TOKEN_PREFIX + base64.urlsafe_b64encode(url.encode()).rstrip(b"=").decode()


def generate_rds_token(
    host: str,
    port: int,
    user: str,
    region: str,
    *,
    credentials: Credentials | None = None,
    now: float | None = None,
) -> str:
    """A token that RDS, Aurora or RDS Proxy accepts as a password for 15 minutes, over TLS.

    Parameters
    - `host`, `port`: of the database's or the proxy's own endpoint; another name for it will not do.
    - `user`: the database user, who must be granted `rds_iam`.
    - `region`: the AWS region of the database.
    - `credentials`: who signs, and must be allowed `rds-db:connect`; if not given, found as the SDKs find them.
    - `now`: seconds since the epoch; the present if not given.

    Raises: PasswordUnavailable without credentials.
    """
    url = presign(
        host=f"{host}:{port}",
        parameters={"Action": "connect", "DBUser": user},
        headers={},
        service="rds-db",
        region=region,
        credentials=credentials or load(),
        expires=TOKEN_LIFE,
        now=time.time() if now is None else now,
    )
    return url.removeprefix("https://")


def dns_suffix(region: str) -> str:
    """The domain of AWS's endpoints in a region's partition."""
    return next((suffix for beginning, suffix in _SUFFIXES if region.startswith(beginning)), "amazonaws.com")
