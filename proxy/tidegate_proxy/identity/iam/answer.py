"""What STS answers to GetCallerIdentity, in JSON or XML, read strictly. No I/O."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

from tidegate_proxy.identity.iam.policy import Principal
from tidegate_proxy.identity.iam.reasons import Reason, TokenError

MAX_ANSWER = 32_768
"""Bytes. A real answer has less than 1 KB."""

_NAMESPACE = "{https://sts.amazonaws.com/doc/2011-06-15/}"
# As botocore's standard retries count them.
_THROTTLING = frozenset({
    "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException",
    "TooManyRequestsException", "RequestLimitExceeded", "BandwidthLimitExceeded", "LimitExceededException",
    "SlowDown", "PriorRequestNotComplete",
})  # fmt: skip


class TryAgain(Exception):  # noqa: N818 (not an error of the answer's reader)
    """STS has not judged the token. `throttled`: since it has too much to do. The text is for the log."""

    def __init__(self, text: str, *, throttled: bool = False) -> None:
        super().__init__(text)
        self.throttled = throttled


def read_answer(status: int, body: bytes) -> Principal:
    """Who signed the request.

    Parameters: `status`, HTTP's; `body`, at most MAX_ANSWER bytes.
    Raises: TokenError when STS refused the token, and for whatever is no answer of STS; TryAgain.
    """
    if status == 200:
        return _principal(body)
    code = _error_code(body)
    if status == 429 or code in _THROTTLING:
        raise TryAgain(f"STS is throttling requests ({code or status})", throttled=True)
    if status >= 500:
        raise TryAgain(f"STS answered with HTTP status {status}")
    if status in (400, 403) and code is not None:
        remedy = {
            "SignatureDoesNotMatch": ": it was changed, or made for another proxy_id",
            "AccessDenied": ": does the policy of the VPC endpoint of STS allow sts:GetCallerIdentity?",
        }.get(code, "")
        raise TokenError(Reason.REFUSED_BY_STS, f"STS refused it with {code}{remedy}")
    raise TokenError(Reason.STS_ANSWER, f"the answer with HTTP status {status} is not one of STS")


def _principal(body: bytes) -> Principal:
    try:
        found = _fields_of_json(body) if body.lstrip().startswith(b"{") else _fields_of_xml(body)
        arn, account, user_id = (found[name] for name in ("Arn", "Account", "UserId"))
        if not all(isinstance(value, str) and value for value in (arn, account, user_id)):
            raise ValueError("a part of it is empty")
        return Principal.parse(arn, account)
    except (ValueError, KeyError, TypeError, RecursionError, ElementTree.ParseError) as error:
        raise TokenError(Reason.STS_ANSWER, f"the answer is not one of STS: {error}") from None


def _fields_of_json(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = _JSON.decode(body.decode())
    result: dict[str, Any] = found["GetCallerIdentityResponse"]["GetCallerIdentityResult"]
    return result


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it says something twice")
    return found


# json.loads makes one each time.
_JSON = json.JSONDecoder(object_pairs_hook=_without_repetition)


def _fields_of_xml(body: bytes) -> dict[str, Any]:
    root = _xml(body)
    results = [child for child in root if child.tag == f"{_NAMESPACE}GetCallerIdentityResult"]
    if root.tag != f"{_NAMESPACE}GetCallerIdentityResponse" or len(results) != 1:
        raise ValueError("it has another root, or another result")
    return _without_repetition([(child.tag.removeprefix(_NAMESPACE), child.text) for child in results[0]])


def _xml(body: bytes) -> ElementTree.Element:
    if b"<!" in body:
        # No answer of STS declares anything, and entities could be made to grow without end.
        raise ValueError("it has declarations")
    return ElementTree.fromstring(body)  # noqa: S314 (bounded, and without declarations)


def _error_code(body: bytes) -> str | None:
    """The code of an error, None where there is none that could be one."""
    try:
        if body.lstrip().startswith(b"{"):
            code = json.loads(body)["Error"]["Code"]
        else:
            code = _xml(body).findtext(f"{_NAMESPACE}Error/{_NAMESPACE}Code")
    except (ValueError, KeyError, TypeError, RecursionError, ElementTree.ParseError):
        return None
    return code if isinstance(code, str) and re.fullmatch(r"[A-Za-z.]{1,80}", code) else None
