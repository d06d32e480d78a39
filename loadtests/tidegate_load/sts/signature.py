"""Whether a presigned request is signed as AWS would have it, found out with botocore."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlencode

from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

LIFETIME = 900
"""Seconds that STS accepts a presigned request, whatever it says itself."""

SKEW = 300
"""Seconds that a request may be dated ahead."""


@dataclass(frozen=True, slots=True)
class Key:
    """An access key, and who it belongs to."""

    access_key: str
    secret_key: str
    arn: str
    session_token: str | None = None

    @property
    def account(self) -> str:
        """The account's number."""
        return self.arn.split(":")[4]


class Refused(Exception):  # noqa: N818 (AWS's words for it are in `code`)
    """`code` and `message` as AWS's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def verify(query: str, headers: Mapping[str, str], keys: Mapping[str, Key], now: float) -> Key:
    """Who signed a GET request for `/`.

    Parameters: `query`, as it came; `headers` of the request, by lower-case name; `keys`, by access key id; `now`,
    seconds since the epoch.
    Raises: Refused.
    """
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    try:
        access_key, *scope = parameters["X-Amz-Credential"].split("/")
        stamp, signature = parameters["X-Amz-Date"], parameters.pop("X-Amz-Signature")
        names = parameters["X-Amz-SignedHeaders"].split(";")
        _, region, service, _ = scope
        signed_at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except (KeyError, ValueError):
        raise Refused("IncompleteSignature", "The request does not have every part of a signature") from None
    key = keys.get(access_key)
    if key is None:
        raise Refused("InvalidClientTokenId", "The security token included in the request is invalid.")
    if now >= signed_at + LIFETIME:
        raise Refused("ExpiredToken", "The security token included in the request is expired")
    if now < signed_at - SKEW:
        raise Refused("SignatureDoesNotMatch", "Signature not yet current")
    if parameters.get("X-Amz-Security-Token") != key.session_token:
        raise Refused("InvalidClientTokenId", "The security token included in the request is invalid")
    request = AWSRequest("GET", f"https://{headers.get('host', '')}/?{urlencode(parameters)}")
    for name in names:
        if name != "host" and name in headers:
            request.headers[name] = headers[name]
    request.context["timestamp"] = stamp
    signer = SigV4QueryAuth(Credentials(key.access_key, key.secret_key), service, region)
    request.params = parameters
    expected = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    if "host" not in names or not hmac.compare_digest(signature, expected):
        raise Refused(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided."
            " Check your AWS Secret Access Key and signing method.",
        )
    return key
