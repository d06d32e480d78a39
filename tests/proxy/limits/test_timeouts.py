"""How long things may take, and what a client gets then."""

from __future__ import annotations

import time

import psycopg
import pytest
from tests.proxy.adversity.helpers import backend_pid, until_nothing_runs, value
from tests.support.proxy import StartProxy, eventually
from tests.support.rawclient import RawClient

from tidegate_proxy.protocol import encode


def test_a_query_that_takes_too_long_is_cancelled_and_the_client_stays(start_proxy: StartProxy) -> None:
    proxy = start_proxy(query_timeout=1, default_pool_size=1)
    with RawClient(proxy.parameters) as client:
        client.send(encode.query("SELECT pg_sleep(3600)"))
        assert client.error_until()["C"] == "57014"
        until_nothing_runs(proxy)
        assert value(client, "SELECT 1") == "1"


def test_a_user_may_have_a_query_timeout_of_its_own(start_proxy: StartProxy) -> None:
    proxy = start_proxy(query_timeout=3600, more="query_timeout = 0.5\n")
    with RawClient(proxy.parameters) as client:
        client.send(encode.query("SELECT pg_sleep(3600)"))
        assert client.error_until()["C"] == "57014"


@pytest.mark.parametrize("pinned", [False, True])
def test_a_transaction_that_takes_too_long_ends_its_client(start_proxy: StartProxy, pinned: bool) -> None:
    proxy = start_proxy(transaction_timeout=2, default_pool_size=1)
    with RawClient(proxy.parameters) as client:
        if pinned:
            client.query("CREATE TEMP TABLE t (n int)")
        # Several short ones are not one long one.
        end = time.monotonic() + 4
        while time.monotonic() < end:
            client.query("BEGIN; SELECT pg_sleep(0.2); COMMIT")
        client.query("BEGIN")
        for _ in range(1000):
            client.send(encode.query("SELECT pg_sleep(0.1)"))
            kind = client.read()[0]
            while kind not in "ZE":
                kind = client.read()[0]
            if kind == "E":
                break
        else:
            pytest.fail("the transaction was never ended")
    with RawClient(proxy.parameters) as other:
        assert value(other, "SELECT 1") == "1"


def test_an_idle_client_is_disconnected_and_a_busy_one_is_not(start_proxy: StartProxy) -> None:
    proxy = start_proxy(idle_client_timeout=4, idle_transaction_timeout=3600)
    with RawClient(proxy.parameters) as idle, RawClient(proxy.parameters) as busy, RawClient(proxy.parameters) as open_:
        open_.query("BEGIN")
        idle.query("CREATE TEMP TABLE t (n int)")  # pinned, but idle
        idle.socket.setblocking(False)

        def ended() -> bool:
            assert value(busy, "SELECT 1") == "1"
            try:
                return b"57P05" in idle.socket.recv(1000)
            except BlockingIOError:
                return False

        eventually(ended)
        assert value(open_, "SELECT 1") == "1"


def test_a_client_that_has_been_there_for_too_long_is_closed_after_its_transaction(start_proxy: StartProxy) -> None:
    proxy = start_proxy(client_lifetime=2)
    with RawClient(proxy.parameters) as client:
        client.query("BEGIN")
        assert value(client, "SELECT pg_sleep(3.5)") == ""
        client.send(encode.query("COMMIT"))
        assert client.error_until("E")["C"] == "57P01"
        assert client.is_closed()


def test_a_database_may_have_a_server_lifetime_and_a_borrow_timeout_of_its_own(start_proxy: StartProxy) -> None:
    settings = {"server_lifetime": 0.5, "connection_borrow_timeout": 2}
    proxy = start_proxy(default_pool_size=1, database_settings=settings)
    with RawClient(proxy.parameters) as client, RawClient(proxy.parameters) as other:
        pid = backend_pid(client)
        eventually(lambda: backend_pid(client) != pid)
        client.query("BEGIN")
        other.send(encode.query("SELECT 1"))
        assert '"connection_borrow_timeout" (2 s)' in other.error_until()["M"]


def test_init_query_is_run_on_every_server_connection_and_outlives_resets(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, init_query="SET work_mem = '7MB'; SET timezone = 'Asia/Tokyo'")
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        assert one.reported[b"TimeZone"] == b"Asia/Tokyo"
        one.query("SET work_mem = '9MB'")
        assert value(one, "SHOW work_mem") == "9MB"
        assert value(two, "SHOW work_mem") == "7MB"
        assert value(one, "SHOW work_mem") == "9MB"
        one.query("CREATE TEMP TABLE t (n int)")
    with RawClient(proxy.parameters) as three:
        assert value(three, "SHOW work_mem") == "7MB"


def test_an_init_query_that_fails_is_named(start_proxy: StartProxy) -> None:
    proxy = start_proxy(init_query="SELECT 1/0", connection_borrow_timeout=2)
    with pytest.raises(psycopg.OperationalError, match="init_query failed: division by zero"):
        proxy.connect()
