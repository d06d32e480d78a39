"""Every way in which an invocation can end has one short name, and no name carries a value."""

from __future__ import annotations

import base64
import json

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    ReadTimeoutError,
)

from tidegate_load.spike.outcomes import is_cold_start, kind_of_error, outcome_of_answer, outcome_of_exception

FULL = 'connection to server at "10.0.3.7", port 5432 failed: FATAL:  sorry, too many clients already'
SLOTS = "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute"
TIMEOUT = "RequestId: 0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0 Error: Task timed out after 15.00 seconds"


@pytest.mark.parametrize(
    ("error_type", "message", "kind"),
    [
        ("OperationalError", FULL, "too many clients already"),
        ("OperationalError", SLOTS, "too many clients already"),
        ("DeadlineExceeded", f"no connection before the deadline: {FULL}", "too many clients already"),
        ("DeadlineExceeded", "no connection to h:5 before the deadline, 0 made", "no connection before the deadline"),
        ("Sandbox.Timedout", TIMEOUT, "Task timed out"),
        ("Runtime.ExitError", "RequestId: 1 Error: Runtime exited with error: exit status 1", "runtime exited"),
        ("Runtime.ExitError", "Runtime exited with error: signal: killed", "runtime was killed"),
        ("TooManyConnections", "no server connection within borrow_timeout (2 s)", "proxy: borrow_timeout"),
        ("OperationalError", "consuming input failed: server closed the connection unexpectedly", "connection lost"),
    ],
)
def test_a_known_failure_has_its_name(error_type: str, message: str, kind: str) -> None:
    assert kind_of_error(error_type, message) == kind


def test_an_unknown_failure_is_named_without_its_values() -> None:
    kind = kind_of_error("UniqueViolation", 'duplicate key "orders_pkey"\nDETAIL: Key (card)=(4242) already exists.')
    assert kind == "UniqueViolation: duplicate key …"


def test_names_that_differ_only_in_values_are_one_kind() -> None:
    assert kind_of_error("KeyError", "row 17 of 'a'") == kind_of_error("KeyError", "row 4711 of 'bcd'")


def test_a_long_message_is_cut() -> None:
    assert len(kind_of_error("ValueError", "word " * 100)) == 60


def test_only_an_answer_that_says_so_counts_as_committed() -> None:
    assert outcome_of_answer(None, b'{"committed": true, "id": 1}').committed
    for body in (b'{"committed": "yes"}', b'{"id": 1}', b"[]", b"null", b""):
        outcome = outcome_of_answer(None, body)
        assert outcome.ok
        assert not outcome.committed


def test_a_function_error_is_a_failure_even_with_status_200() -> None:
    body = json.dumps({"errorMessage": FULL, "errorType": "OperationalError"}).encode()
    outcome = outcome_of_answer("Unhandled", body)
    assert not outcome.ok
    assert outcome.kind == "too many clients already"


def test_an_answer_that_is_not_json_is_a_failure() -> None:
    assert outcome_of_answer(None, b"<html>").kind == "answer is not JSON"


def client_error(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Invoke")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (client_error(429, "TooManyRequestsException"), "throttled (429)"),
        (client_error(500, "ServiceException"), "service error: ServiceException"),
        (ReadTimeoutError(endpoint_url="http://x"), "no answer within the read timeout"),
        (EndpointConnectionError(endpoint_url="http://x"), "Lambda service not reachable"),
        (ConnectionClosedError(endpoint_url="http://x"), "connection to the Lambda service lost"),
        (ConnectionResetError(104, "reset"), "connection to the Lambda service lost"),
    ],
)
def test_what_the_client_raises_has_a_name(error: Exception, kind: str) -> None:
    assert outcome_of_exception(error).kind == kind


def test_a_cold_start_is_known_from_the_local_header_or_from_lambdas_log() -> None:
    cold = base64.b64encode(b"REPORT RequestId: 1\tDuration: 2 ms\tInit Duration: 130.51 ms\t\n").decode()
    warm = base64.b64encode(b"REPORT RequestId: 1\tDuration: 2 ms\t\n").decode()
    assert is_cold_start({"x-tidegate-cold-start": "1"}, None)
    assert not is_cold_start({"x-tidegate-cold-start": "0"}, cold)
    assert is_cold_start({}, cold)
    assert not is_cold_start({}, warm)
    assert not is_cold_start({}, None)
