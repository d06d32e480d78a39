"""How available targets were, and failovers, from looks at their health."""

from __future__ import annotations

from tidegate_proxy.metrics.vitals import Availability
from tidegate_proxy.targets.health import TargetHealth, TargetReason, TargetRole, TargetState


def target(host: str, role: TargetRole, *, available: bool = True) -> TargetHealth:
    state = TargetState.AVAILABLE if available else TargetState.UNAVAILABLE
    reason = None if available else TargetReason.UNREACHABLE
    return TargetHealth(host, 5432, ("app",), role, state, reason, None, 0.0)


WRITER, READER, UNKNOWN = TargetRole.READ_WRITE, TargetRole.READ_ONLY, TargetRole.UNKNOWN


def test_a_failover_is_counted_once_and_the_time_without_a_writer_shows() -> None:
    seen = Availability()
    seen.look([target("a", WRITER), target("b", READER)])
    seen.look([target("a", UNKNOWN, available=False), target("b", READER)])
    for _ in range(2):
        seen.look([target("a", READER), target("b", WRITER)])
    assert seen.failovers == 1
    assert seen.percentages() == {"READ_WRITE": 75.0, "READ_ONLY": 100.0}


def test_the_same_writer_after_a_restart_is_no_failover() -> None:
    seen = Availability()
    for state in (True, False, True):
        seen.look([target("a", WRITER, available=state)])
    assert seen.failovers == 0
