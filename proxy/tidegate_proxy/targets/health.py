"""How a target is, in the words of RDS Proxy's DescribeDBProxyTargets.

States, reasons and roles are those of the data types TargetHealth and DBProxyTarget in the Amazon RDS API reference;
what each means here stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TargetState(StrEnum):
    """Where a target stands."""

    REGISTERING = "REGISTERING"
    """It has not been reached yet, nor failed to be."""

    AVAILABLE = "AVAILABLE"
    """The proxy's control connection is up and answers."""

    UNAVAILABLE = "UNAVAILABLE"
    """It does not take the proxy's control connection, for a `TargetReason`."""


class TargetReason(StrEnum):
    """Why a target is UNAVAILABLE."""

    UNREACHABLE = "UNREACHABLE"
    """Its name does not resolve, or nothing answers there in time."""

    CONNECTION_FAILED = "CONNECTION_FAILED"
    """Something answers there, but no session begins: the server is starting up, TLS fails, the database is missing."""

    AUTH_FAILURE = "AUTH_FAILURE"
    """It refuses the proxy's user or password, or the proxy could not get them."""

    PENDING_PROXY_CAPACITY = "PENDING_PROXY_CAPACITY"
    """It has no connection left for the proxy (SQLSTATE 53300)."""


class TargetRole(StrEnum):
    """What a target may be used for."""

    READ_WRITE = "READ_WRITE"
    """It accepts writes."""

    READ_ONLY = "READ_ONLY"
    """It is in recovery, or its configuration sets `default_transaction_read_only`."""

    UNKNOWN = "UNKNOWN"
    """It has not been asked yet, or not since it was lost."""


@dataclass(frozen=True)
class TargetHealth:
    """One target at one moment.

    - `host`, `port`: where it is, as configured or as Aurora names it.
    - `databases`: the entries of `databases` that use it.
    - `role`, `state`, `reason`: see the classes; the reason is None when it is AVAILABLE.
    - `description`: what is wrong, with the remedy, and no secret. Of an AVAILABLE target, which credentials do not
      work there; None if all do.
    - `since`: Unix time in seconds of the latest change of state or role.
    """

    host: str
    port: int
    databases: tuple[str, ...]
    role: TargetRole
    state: TargetState
    reason: TargetReason | None
    description: str | None
    since: float
