"""Which of the servers is the writer, and which a pool may use."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tidegate_proxy.errors import (
    AuthenticationError,
    CredentialsUnavailableError,
    ProxyError,
    TargetUnavailableError,
    TargetUnreachableError,
)
from tidegate_proxy.targets import planner
from tidegate_proxy.targets.endpoint import Endpoint
from tidegate_proxy.targets.health import TargetReason, TargetRole, TargetState
from tidegate_proxy.targets.planner import Access


@dataclass
class Server:
    endpoint: Endpoint
    role: TargetRole
    state: TargetState = TargetState.AVAILABLE
    reason: TargetReason | None = None
    timeline: str = "00000001"
    looked_at: float = 1.0


def writer(name: str, timeline: str = "00000001", looked_at: float = 1.0) -> Server:
    return Server(Endpoint(name, 5432), TargetRole.READ_WRITE, timeline=timeline, looked_at=looked_at)


def reader(name: str, looked_at: float = 1.0) -> Server:
    return Server(Endpoint(name, 5432), TargetRole.READ_ONLY, looked_at=looked_at)


def away(name: str, reason: TargetReason) -> Server:
    return Server(Endpoint(name, 5432), TargetRole.UNKNOWN, TargetState.UNAVAILABLE, reason)


def new(name: str) -> Server:
    return Server(Endpoint(name, 5432), TargetRole.UNKNOWN, TargetState.REGISTERING)


def test_of_two_writers_the_promoted_one_is_believed() -> None:
    old, promoted = writer("a", "00000001"), writer("b", "00000002")
    assert planner.writer_among([old, promoted], old.endpoint) is promoted


def test_a_lost_primary_is_not_believed_while_the_promoted_one_is_away() -> None:
    old, promoted = writer("a", "00000001"), away("b", TargetReason.UNREACHABLE)
    promoted.timeline = "00000002"
    assert planner.writer_among([old, promoted], None) is None
    nameless = writer("c", "")
    assert planner.writer_among([nameless, promoted], None) is nameless


def test_of_equal_writers_the_one_in_use_is_kept_else_the_first_is_taken() -> None:
    one, other = writer("a"), writer("b")
    assert planner.writer_among([one, other], other.endpoint) is other
    assert planner.writer_among([one, other], None) is one
    assert planner.writer_among([reader("c")], None) is None


def test_who_has_not_been_asked_since_may_have_been_promoted() -> None:
    found = writer("a", looked_at=5)
    late, fresh, unknown, gone = reader("b", 4), reader("c", 6), new("d"), away("e", TargetReason.UNREACHABLE)
    candidate = planner.candidate_for(found, None)
    assert planner.to_ask_first([found, late, fresh, unknown, gone], candidate) == [late, unknown]


def test_what_a_candidate_answers_meanwhile_makes_no_answer_of_the_others_too_old() -> None:
    found, slow = writer("a", looked_at=5), reader("b", 4)
    candidate = planner.candidate_for(found, None)
    assert planner.to_ask_first([found, slow], candidate) == [slow]
    found.looked_at, slow.looked_at = 7, 6
    candidate = planner.candidate_for(found, candidate)
    assert planner.to_ask_first([found, slow], candidate) == []


def test_another_candidate_or_one_that_was_promoted_meanwhile_must_be_confirmed_anew() -> None:
    slow = reader("b", 6)
    candidate = planner.candidate_for(writer("a", looked_at=5), None)
    for other in (writer("c", looked_at=7), writer("a", "00000002", looked_at=7)):
        assert planner.to_ask_first([other, slow], planner.candidate_for(other, candidate)) == [slow]


W, R, R2 = writer("w"), reader("r"), reader("r2")
LOCKED, DEAD = away("locked", TargetReason.AUTH_FAILURE), away("dead", TargetReason.UNREACHABLE)


@pytest.mark.parametrize(
    ("servers", "access", "expected"),
    [
        ([W, R], Access("writer"), [W]),
        ([R, DEAD], Access("writer"), []),
        ([R, LOCKED], Access("writer"), [LOCKED]),
        ([W, R, R2], Access("reader"), [R, R2]),
        ([W, DEAD], Access("reader"), [W]),
        ([W, DEAD], Access("reader", fallback=False), []),
        ([W, LOCKED], Access("reader", fallback=False), [LOCKED]),
        ([W, R, DEAD], Access("any"), [W, R]),
        ([LOCKED, DEAD], Access("any"), [LOCKED]),
    ],
)
def test_candidates(servers: list[Server], access: Access, expected: list[Server]) -> None:
    assert planner.candidates(servers, planner.writer_among(servers, None), access) == expected


def test_a_server_that_cannot_be_asked_gets_no_writes_if_it_was_a_primary_that_another_succeeded() -> None:
    lost, promoted = away("a", TargetReason.PENDING_PROXY_CAPACITY), away("b", TargetReason.UNREACHABLE)
    lost.timeline, promoted.timeline = "00000001", "00000002"
    assert planner.candidates([lost, promoted], None, Access("writer")) == []
    assert planner.candidates([lost, promoted], None, Access("any")) == [lost]
    lost.timeline = ""
    assert planner.candidates([lost, promoted], None, Access("writer")) == [lost]


def test_readers_are_balanced() -> None:
    assert planner.least_loaded([R, R2], {R.endpoint: 2, R2.endpoint: 1}) is R2
    assert {planner.least_loaded([R, R2], {}).endpoint for _ in range(100)} == {R.endpoint, R2.endpoint}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TargetUnreachableError(), TargetReason.UNREACHABLE),
        (TargetUnavailableError(sqlstate="57P03"), TargetReason.CONNECTION_FAILED),
        (ProxyError(sqlstate="53300"), TargetReason.PENDING_PROXY_CAPACITY),
        (ProxyError(sqlstate="28000"), TargetReason.AUTH_FAILURE),
        (AuthenticationError(), TargetReason.AUTH_FAILURE),
        (CredentialsUnavailableError(), TargetReason.AUTH_FAILURE),
    ],
)
def test_reasons(error: ProxyError, reason: TargetReason) -> None:
    assert planner.reason_for(error) is reason


def test_a_lost_server_is_looked_at_often_and_one_that_refuses_us_is_not() -> None:
    assert max(planner.next_look(failures, final=False) for failures in range(1, 2000)) <= 0.5
    assert min(planner.next_look(failures, final=True) for failures in range(10, 100)) >= 5


def test_a_name_has_moved_when_the_address_in_use_is_no_longer_among_its_addresses() -> None:
    assert planner.has_moved("10.0.0.1", ["10.0.0.2"], {}, now=0.0)
    assert not planner.has_moved("10.0.0.1", ["10.0.0.2", "10.0.0.1"], {}, now=0.0)


def test_an_old_answer_does_not_lead_back() -> None:
    left = {"10.0.0.1": 1000.0}
    assert not planner.has_moved("10.0.0.2", ["10.0.0.1"], left, now=1000.0 + planner.RETURN_AFTER - 1)
    assert planner.has_moved("10.0.0.2", ["10.0.0.1"], left, now=1000.0 + planner.RETURN_AFTER)
    assert planner.has_moved("10.0.0.2", ["10.0.0.3", "10.0.0.1"], left, now=1001.0)
