"""A token for the proxy: a presigned STS GetCallerIdentity request, which names its signer to whoever sends it.

The pattern is that of aws-iam-authenticator. The request is bound to one proxy by a signed header with the proxy's own
identifier: the client signs the identifier, the proxy sends its own, and STS refuses what does not match.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field

from tidegate_proxy.identity.iam.presigned import MAX_TOKEN, check_signing, split_query
from tidegate_proxy.identity.iam.reasons import Reason, TokenError

PREFIX = b"tidegate-v1."
"""How a token begins: the form's version."""

PROXY_HEADER = "x-tidegate-proxy-id"
"""The header that carries the proxy's identifier; also said by the layer's `tidegate.auth`."""

_OWN = frozenset({"Action", "Version"})
_SIGNED_HEADERS = f"host;{PROXY_HEADER}"

# From base64url to base64, and to what is neither for characters that are base64 only.
_TO_BASE64 = bytes.maketrans(b"-_+/=", b"+/!!!")


@dataclass(frozen=True, slots=True)
class ProxyToken:
    """A token that may be shown to STS.

    `host`, for the Host header, which is signed; `query`, which holds nothing but what was checked; `expires_at`,
    seconds since the epoch.
    """

    host: str
    query: str = field(repr=False)
    expires_at: float


def token_hash(token: bytes) -> str:
    """A token's name in logs: enough to find it again, nothing to log in with."""
    return hashlib.sha256(token).hexdigest()[:12]


def is_proxy_token(password: bytes) -> bool:
    """Whether the password is meant to be a token for a proxy."""
    return password.startswith(PREFIX)


def parse_proxy_token(token: bytes, *, region: str, hosts: Collection[str], now: float) -> ProxyToken:
    """Read a token, and check all that can be checked without asking anyone.

    Parameters: `region`, which it must be signed for; `hosts`, names of that region's STS endpoint; `now`, seconds
    since the epoch.
    Raises: TokenError, with a reason of its own for each rule.
    """
    if len(token) > MAX_TOKEN:
        raise TokenError(Reason.TOO_LONG, f"it has {len(token)} bytes, and at most {MAX_TOKEN} are read")
    if not token.startswith(PREFIX):
        raise TokenError(Reason.NO_TOKEN, "the password is no token of this kind")
    scheme, _, rest = _decoded(token.removeprefix(PREFIX)).partition("://")
    if scheme != "https":
        raise TokenError(Reason.NOT_HTTPS, "the URL does not begin with https://")
    target, _, query = rest.partition("?")
    host, slash, path = target.partition("/")
    if host not in hosts:
        raise TokenError(Reason.HOST, f"the URL's host is not an STS endpoint of {region}")
    if not slash or path:
        raise TokenError(Reason.PATH, "the URL's path is not /")
    parameters = split_query(query, _OWN)
    if parameters["Action"] != "GetCallerIdentity":
        raise TokenError(Reason.ACTION, "the action is not GetCallerIdentity")
    if parameters["Version"] != "2011-06-15":
        raise TokenError(Reason.VERSION, "the version is not 2011-06-15")
    signed = check_signing(parameters, service="sts", headers=_SIGNED_HEADERS, now=now)
    if signed.region != region:
        raise TokenError(Reason.SCOPE, f"it is not signed for the region {region}")
    return ProxyToken(host, query, signed.expires_at)


def _decoded(text: bytes) -> str:
    try:
        # Strictly: characters of another alphabet, which the table makes of those that are not base64url's, are errors.
        padding = b"=" * (-len(text) % 4)
        decoded = binascii.a2b_base64(text.translate(_TO_BASE64) + padding, strict_mode=True)
        url = decoded.decode("ascii")
    except ValueError:
        raise TokenError(Reason.ENCODING, "it is not base64url of ASCII text, without padding") from None
    if not url:
        raise TokenError(Reason.ENCODING, "there is nothing in it")
    if padding and base64.urlsafe_b64encode(decoded[-(len(decoded) % 3) :]).rstrip(b"=") != text[-(len(text) % 4) :]:
        # One URL must not be many tokens.
        raise TokenError(Reason.ENCODING, "its last character has bits that mean nothing")
    return url
