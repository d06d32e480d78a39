"""Which of a cluster's targets a pool may use, as pure functions: how they are goes in, decisions come out."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tidegate_proxy.credentials.provider import is_refusal
from tidegate_proxy.errors import AuthenticationError, CredentialsUnavailableError, ProxyError, TargetUnreachableError
from tidegate_proxy.targets.endpoint import Endpoint
from tidegate_proxy.targets.health import TargetReason, TargetRole, TargetState

SEARCH_INTERVAL = 0.1
"""Seconds between two looks at a target that answers, while there is no writer: a promotion is seen as late as that."""

RETURN_AFTER = 60.0
"""Seconds until a name is believed that leads back to where it has led away from. An answer from before it moved may be
kept by some DNS server for the record's TTL, for which 60 s is a usual value."""

_FIRST_RETRY, _LONGEST_RETRY, _LONGEST_IF_FINAL = 0.05, 0.5, 10.0


@dataclass(frozen=True)
class Access:
    """What a pool wants of a cluster: `role` as in the settings; `fallback`, whether readers' pools may use the
    writer."""

    role: Literal["writer", "reader", "any"]
    fallback: bool = True


class Known(Protocol):
    """What is known of one target: `timeline` in hexadecimal; `looked_at`, when the latest look began that it
    answered."""

    @property
    def endpoint(self) -> Endpoint: ...
    @property
    def role(self) -> TargetRole: ...
    @property
    def state(self) -> TargetState: ...
    @property
    def reason(self) -> TargetReason | None: ...
    @property
    def timeline(self) -> str: ...
    @property
    def looked_at(self) -> float: ...


def writer_among(targets: Sequence[Known], current: Endpoint | None) -> Known | None:
    """The cluster's writer.

    Two servers may both take writes, when a lost primary comes back that nobody has told of its successor: then it is
    the one of the later timeline, since that one was promoted; among equals the one in use, then the first. One of an
    earlier timeline than any that was seen is none, also while the promoted one is away: what is written to it is lost.
    """
    latest = max((target.timeline for target in targets), default="")
    writers = [
        target
        for target in targets
        if target.role is TargetRole.READ_WRITE and (not target.timeline or target.timeline >= latest)
    ]
    if not writers:
        return None
    return max(writers, key=lambda target: (target.timeline, target.endpoint == current))


@dataclass(frozen=True)
class Candidate:
    """Another writer than before, not yet believed: `timeline` that it is on; `seen_at`, when the look began by which
    it was first seen to be the writer."""

    endpoint: Endpoint
    timeline: str
    seen_at: float


def candidate_for(writer: Known, before: Candidate | None) -> Candidate:
    """The candidate that `writer` is; the same one as `before` as long as it is the same server on the same timeline.

    It is asked again and again meanwhile. Were the others to have been looked at since its latest answer, one that
    answers slowly would never have been.
    """
    if before is not None and (before.endpoint, before.timeline) == (writer.endpoint, writer.timeline):
        return before
    return Candidate(writer.endpoint, writer.timeline, writer.looked_at)


def to_ask_first(targets: Sequence[Known], candidate: Candidate) -> list[Known]:
    """The targets that must be looked at before a candidate is believed: one of them may have been promoted since it
    was seen last, and then the candidate is the primary that was lost."""
    return [
        target
        for target in targets
        if target.endpoint != candidate.endpoint
        and (
            target.state is TargetState.REGISTERING
            or (target.state is TargetState.AVAILABLE and target.looked_at < candidate.seen_at)
        )
    ]


def candidates(targets: Sequence[Known], writer: Known | None, access: Access) -> list[Known]:
    """All that may be used now, any as good as the other; empty when there is nothing to do but wait.

    A target that the control connection can't log in to, though something answers there, may be tried: the pool's own
    user may fare better, and if not, its clients learn why. But not for writes if it is known to be of an earlier
    timeline than another one: see writer_among.
    """
    latest = max((target.timeline for target in targets), default="")
    readers = [target for target in targets if target.role is TargetRole.READ_ONLY]
    untold = [
        target
        for target in targets
        if target.state is TargetState.UNAVAILABLE and target.reason is not TargetReason.UNREACHABLE
    ]
    if access.role == "any":
        return [target for target in targets if target.role is not TargetRole.UNKNOWN] or untold
    if access.role == "writer":
        timely = [target for target in untold if not target.timeline or target.timeline >= latest]
        return [writer] if writer is not None else timely
    if readers:
        return readers
    return [writer] if writer is not None and access.fallback else untold


def has_moved(address: str, found: Sequence[str], left: Mapping[str, float], now: float) -> bool:
    """Whether a name leads to another server than the one at `address`, which still answers.

    Not as long as that is among the name's addresses, in whatever order they come. Names of which each look-up gives
    another address, or an old one at times, move a writer no more than once in RETURN_AFTER.

    Parameters: `found`, the name's addresses; `left`, when it was seen to lead away from others; `now`, on that clock.
    """
    return address not in found and any(now - left.get(other, -math.inf) >= RETURN_AFTER for other in found)


def least_loaded(targets: Sequence[Known], load: dict[Endpoint, int]) -> Known:
    """The target with the fewest connections, one by chance among equals. There must be at least one."""
    fewest = min(load.get(target.endpoint, 0) for target in targets)
    return random.choice([target for target in targets if load.get(target.endpoint, 0) == fewest])  # noqa: S311


def reason_for(error: ProxyError) -> TargetReason:
    """RDS Proxy's word for a control connection that failed."""
    if isinstance(error, TargetUnreachableError):
        return TargetReason.UNREACHABLE
    if isinstance(error, (AuthenticationError, CredentialsUnavailableError)) or is_refusal(error):
        return TargetReason.AUTH_FAILURE
    if error.sqlstate == "53300":
        return TargetReason.PENDING_PROXY_CAPACITY
    return TargetReason.CONNECTION_FAILED


def next_look(failures: int, *, final: bool) -> float:
    """Seconds until a target that failed is looked at again, with jitter, since a fleet's members look at it too.

    Short, since clients wait meanwhile, and one knock costs a server nothing that counts. Not so where it is `final`,
    until somebody changes something: servers log refused passwords, and some count them.
    """
    delay: float = min(_LONGEST_IF_FINAL if final else _LONGEST_RETRY, _FIRST_RETRY * 2 ** min(failures - 1, 10))
    return random.uniform(0.5, 1) * delay  # noqa: S311
