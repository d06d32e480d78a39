"""How many clients there may be, and how long they may take to log in."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
import pytest
from tests.proxy.adversity.helpers import reset, until_running, value
from tests.support.proxy import StartProxy, eventually
from tests.support.rawclient import RawClient

from tidegate_proxy.protocol import encode


def test_one_client_too_many_is_refused_and_nobody_else(start_proxy: StartProxy) -> None:
    proxy = start_proxy(max_client_conn=3)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(proxy.parameters)) for _ in range(3)]
        for _ in range(3):
            with pytest.raises(psycopg.OperationalError, match="sorry, too many clients already") as refused:
                proxy.connect()
            assert "max_client_conn" in str(refused.value)
        for client in clients:
            assert value(client, "SELECT 1") == "1"
        reset(clients[0])
        stack.enter_context(eventually(lambda: connected(proxy.parameters), what="a free place"))
        for client in clients[1:]:
            assert value(client, "SELECT 1") == "1"


def connected(parameters: dict[str, Any]) -> RawClient | None:
    """A client, or None while there are too many."""
    client = RawClient(parameters, login=False)
    try:
        client.log_in()
    except AssertionError:
        client.socket.close()
        return None
    return client


def test_the_refusal_names_the_sqlstate(start_proxy: StartProxy) -> None:
    proxy = start_proxy(max_client_conn=1)
    with RawClient(proxy.parameters), RawClient(proxy.parameters, login=False) as second:
        second.send(encode.startup_message({"user": proxy.database.user}))
        error = second.error_until("E")
        assert (error["S"], error["C"]) == ("FATAL", "53300")
        assert second.is_closed()


def test_a_cancel_request_gets_through_when_no_client_does(start_proxy: StartProxy) -> None:
    proxy = start_proxy(max_client_conn=1)
    with RawClient(proxy.parameters) as client:
        client.send(encode.query("SELECT pg_sleep(3600)"))
        until_running(proxy, "pg_sleep")
        with RawClient(proxy.parameters, login=False) as canceller:
            canceller.send(encode.cancel_request(client.pid, client.key))
            assert canceller.is_closed()
        assert client.error_until()["C"] == "57014"


def test_many_connections_that_never_log_in_are_ended_and_leave_room(start_proxy: StartProxy) -> None:
    proxy = start_proxy(max_client_conn=20, client_login_timeout=4)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(RawClient(proxy.parameters, login=False)) for _ in range(20)]
        for client in silent:
            assert client.is_closed()
        assert value(stack.enter_context(RawClient(proxy.parameters)), "SELECT 1") == "1"


def test_a_login_that_stops_half_way_is_told_why(start_proxy: StartProxy) -> None:
    proxy = start_proxy(client_login_timeout=2)
    with RawClient(proxy.parameters, login=False) as client:
        client.send(encode.startup_message({"user": proxy.database.user}))
        assert client.read()[0] == "R"
        error = client.error_until("E")
        assert (error["S"], error["C"]) == ("FATAL", "57014")
        assert client.is_closed()


def test_a_closed_client_that_takes_nothing_does_not_keep_its_place(start_proxy: StartProxy) -> None:
    proxy = start_proxy(max_client_conn=1)
    with RawClient(proxy.parameters) as deaf:
        deaf.send(encode.query("SELECT repeat('x', 1000000) FROM generate_series(1, 100)"))
        deaf.read()
        deaf.send(b"?????")
        with eventually(lambda: connected(proxy.parameters), what="a free place") as client:
            assert value(client, "SELECT 1") == "1"
