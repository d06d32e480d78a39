"""Why a token was refused: one word for each rule, for logs and counters. The client learns none of it."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """What was wrong. The words are those of log lines and metrics."""

    TOO_LONG = "too-long"
    NO_TOKEN = "no-token"  # noqa: S105 (not a secret)
    ENCODING = "encoding"
    MALFORMED = "malformed"
    NOT_HTTPS = "not-https"
    HOST = "host"
    PATH = "path"
    UNKNOWN_PARAMETER = "unknown-parameter"
    REPEATED_PARAMETER = "repeated-parameter"
    MISSING_PARAMETER = "missing-parameter"
    ACTION = "action"
    VERSION = "version"
    ALGORITHM = "algorithm"
    CREDENTIAL = "credential"
    SCOPE = "scope"
    SIGNED_HEADERS = "signed-headers"
    SIGNATURE = "signature"
    DATE = "date"
    LIFETIME = "lifetime"
    EXPIRED = "expired"
    FROM_THE_FUTURE = "from-the-future"
    USER = "user"
    REFUSED_BY_STS = "refused-by-sts"
    STS_ANSWER = "sts-answer"
    REFUSED_BY_SERVER = "refused-by-server"
    NOT_CHECKED = "not-checked"
    PRINCIPAL = "principal"
    LIMIT = "limit"


TOO_MANY_FAILED = "too many failed before it (failed_logins_per_minute)"
"""What is said of Reason.LIMIT."""


class TokenError(Exception):
    """A token that is refused for good. `detail` is for the log, and holds nothing secret."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
