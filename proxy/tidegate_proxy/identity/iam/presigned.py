"""Presigned AWS requests, read strictly: what both kinds of token have in common. No I/O, no clock.

Nothing here proves a signature: only AWS can. What is checked is that the request which AWS is going to judge is the
one that it should be, and no other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes

from tidegate_proxy.identity.iam.reasons import Reason, TokenError

MAX_TOKEN = 8192
"""Bytes of a token. Those of roles with many session tags have about 3 KB."""

MAX_LIFETIME = 900
"""Seconds: AWS's own limit for tokens of either kind."""

CLOCK_SKEW = 300
"""Seconds that a client's clock may be ahead: as many as AWS grants."""

ALGORITHM = "X-Amz-Algorithm"
CREDENTIAL = "X-Amz-Credential"
DATE = "X-Amz-Date"
EXPIRES = "X-Amz-Expires"
SIGNED_HEADERS = "X-Amz-SignedHeaders"
SIGNATURE = "X-Amz-Signature"
SECURITY_TOKEN = "X-Amz-Security-Token"  # noqa: S105 (a parameter's name)

SIGNING = frozenset({ALGORITHM, CREDENTIAL, DATE, EXPIRES, SIGNED_HEADERS, SIGNATURE})
"""Parameters that every presigned request has. SECURITY_TOKEN comes with temporary credentials only."""

_KNOWN = SIGNING | {SECURITY_TOKEN}

# As Signature Version 4 encodes: nothing that two servers could read in two ways, so it can be passed on as it is.
_PARAMETER = r"[A-Za-z-]+=[A-Za-z0-9\-._~]*(?:%[0-9A-F]{2}[A-Za-z0-9\-._~]*)*"
_QUERY = re.compile(rf"{_PARAMETER}(?:&{_PARAMETER})*")
# IAM's documentation has access key ids of 16 to 128 word characters.
_SCOPE = re.compile(r"(\w{16,128})/([0-9]{8})/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request", re.ASCII)
_VISIBLE = bytes(range(ord("!"), ord("~") + 1))
_SIGNATURE = re.compile(r"[0-9a-f]{64}")
_EXPIRES = re.compile(r"[1-9][0-9]{0,4}")
_DATE = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")


@dataclass(frozen=True, slots=True)
class Signed:
    """When a presigned request was made, what for, and until when it is good; times in seconds since the epoch."""

    region: str
    issued_at: float
    expires_at: float


def split_query(query: str, own: frozenset[str]) -> dict[str, str]:
    """The parameters of a query string, decoded: exactly those that there must be, once each.

    Parameters: `own`, names beside those of the signature.
    Raises: TokenError.
    """
    if not _QUERY.fullmatch(query):
        raise TokenError(Reason.MALFORMED, "the query is not encoded as Signature Version 4 has it")
    found: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        known = name in _KNOWN or name in own
        # In whatever case: servers differ on which of two they would take.
        if name in found or (not known and name.lower() in map(str.lower, found)):
            raise TokenError(Reason.REPEATED_PARAMETER, "a parameter occurs twice")
        if not known:
            raise TokenError(Reason.UNKNOWN_PARAMETER, "there is a parameter that does not belong there")
        try:
            found[name] = unquote_to_bytes(value).decode() if "%" in value else value
        except UnicodeDecodeError:
            raise TokenError(Reason.MALFORMED, "the query is not UTF-8") from None
    missing = (own | SIGNING).difference(found)
    if missing:
        raise TokenError(Reason.MISSING_PARAMETER, f"there is no {min(missing)}")
    return found


def check_signing(parameters: Mapping[str, str], *, service: str, headers: str, now: float) -> Signed:
    """Check the parameters of a signature, all but the signature itself.

    Parameters: `service`, what it must be good for; `headers` that must be signed, as the parameter has them; `now`,
    seconds since the epoch.
    Raises: TokenError.
    """
    if parameters[ALGORITHM] != "AWS4-HMAC-SHA256":
        raise TokenError(Reason.ALGORITHM, "it is not signed with AWS4-HMAC-SHA256")
    if parameters[SIGNED_HEADERS] != headers:
        raise TokenError(Reason.SIGNED_HEADERS, f"the signed headers are not {headers}")
    if not _SIGNATURE.fullmatch(parameters[SIGNATURE]):
        raise TokenError(Reason.SIGNATURE, "the signature does not have 64 hexadecimal digits")
    issued_at = _moment(parameters[DATE])
    scope = _SCOPE.fullmatch(parameters[CREDENTIAL])
    if scope is None:
        raise TokenError(Reason.CREDENTIAL, f"the {CREDENTIAL} is malformed")
    _, day, region, named = scope.groups()
    if day != parameters[DATE][:8] or named != service:
        raise TokenError(Reason.SCOPE, f"it is not signed for the service {service} on the day of its date")
    if not _is_visible_ascii(parameters.get(SECURITY_TOKEN, "none")):
        raise TokenError(Reason.MALFORMED, f"the {SECURITY_TOKEN} is malformed")
    if not _EXPIRES.fullmatch(parameters[EXPIRES]):
        raise TokenError(Reason.LIFETIME, f"the {EXPIRES} is malformed")
    lifetime = int(parameters[EXPIRES])
    if lifetime > MAX_LIFETIME:
        raise TokenError(Reason.LIFETIME, f"it would be good for {lifetime} s, and at most {MAX_LIFETIME} are allowed")
    if issued_at > now + CLOCK_SKEW:
        raise TokenError(
            Reason.FROM_THE_FUTURE, f"it was signed {issued_at - now:.0f} s from now: the client's clock is wrong"
        )
    if now >= issued_at + lifetime:
        raise TokenError(Reason.EXPIRED, f"it was signed {now - issued_at:.0f} s ago, for {lifetime} s")
    return Signed(region, issued_at, issued_at + lifetime)


def _is_visible_ascii(text: str) -> bool:
    # A kilobyte, mostly: a regular expression takes three times as long.
    return text != "" and not text.encode().translate(None, _VISIBLE)


def _moment(text: str) -> float:
    match = _DATE.fullmatch(text)
    if match is not None:
        year, month, day, hour, minute, second = map(int, match.groups())
        try:
            return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()
        except ValueError:
            pass
    raise TokenError(Reason.DATE, f"the {DATE} is malformed")
