"""Waiting for a server connection: in order, for a limited time, and never more connections than the pool may have."""

from __future__ import annotations

import contextlib

import psycopg
import pytest
from tests.proxy.adversity.helpers import value
from tests.proxy.console.helpers import command, show
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually
from tests.support.rawclient import RawClient, bind, execute, parse

from tidegate_proxy.protocol import encode

SELECT = parse(b"", b"SELECT 1") + bind() + execute()

REQUESTS = {
    "simple": (encode.query("SELECT 1"), ["EZ"]),
    "extended": (SELECT + encode.sync(), ["EZ"]),
    "two simple ones": (encode.query("SELECT 1") * 2, ["EZ", "EZ"]),
    "a pipeline": ((SELECT + encode.sync()) * 2, ["EZ", "EZ"]),
    "more than is held back": (encode.query("SELECT '" + "x" * 300_000 + "'"), ["EZ"]),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_borrow_timeout_is_an_error_after_which_the_client_goes_on(start_proxy: StartProxy, name: str) -> None:
    proxy = start_proxy(default_pool_size=1)
    request, answers = REQUESTS[name]
    with RawClient(proxy.parameters) as holder, RawClient(proxy.parameters) as client:
        proxy.reload(connection_borrow_timeout=0.4)
        holder.query("BEGIN")
        client.send(request)
        for answer in answers:
            messages = client.read_until()
            assert "".join(kind for kind, _ in messages) == answer
            error = messages[0][1]
            assert b"SERROR\0" in error
            assert b"C53300\0" in error
            assert b'"connection_borrow_timeout" (0.4 s)' in error
        holder.query("COMMIT")
        assert value(client, "SELECT 2") == "2"
        client.send(SELECT + encode.sync())
        assert client.kinds_until() == "12DCZ"


def test_a_driver_sees_too_many_connections_and_stays_connected(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1)
    with proxy.connect(autocommit=False) as holder, proxy.connect(autocommit=False) as client:
        proxy.reload(connection_borrow_timeout=0.4)
        holder.execute("SELECT 1")
        with pytest.raises(psycopg.errors.TooManyConnections, match="connection_borrow_timeout"):
            client.execute("SELECT 1")
        holder.commit()
        client.rollback()
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_each_of_many_who_wait_is_told_when_its_time_is_over(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, connection_borrow_timeout=0.4)
    with contextlib.ExitStack() as stack:
        holder, *clients = (stack.enter_context(RawClient(proxy.parameters)) for _ in range(6))
        holder.query("BEGIN")
        for client in clients:
            client.send(encode.query("SELECT 1"))
        for client in clients:
            assert client.error_until()["C"] == "53300"
        holder.query("COMMIT")
        assert [value(client, "SELECT 2") for client in clients] == ["2"] * 5


def test_a_borrow_timeout_that_is_lowered_counts_for_whoever_waits_from_then_on(
    start_proxy: StartProxy, database: Database
) -> None:
    proxy = start_proxy(default_pool_size=1, connection_borrow_timeout=3600, admin_users=[database.user])
    with contextlib.ExitStack() as stack:
        holder, early, late = (stack.enter_context(RawClient(proxy.parameters)) for _ in range(3))
        holder.query("BEGIN")
        early.send(encode.query("SELECT 1"))
        eventually(lambda: show(proxy, "BORROWS"), what="somebody who waits")
        command(proxy, "SET connection_borrow_timeout = 0.4")
        late.send(encode.query("SELECT 1"))
        assert '"connection_borrow_timeout" (0.4 s)' in late.error_until()["M"]
        holder.query("COMMIT")
        assert early.kinds_until() == "TDCZ"


def test_who_waits_longest_is_served_first(narrow_proxy: ProxyProcess) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(narrow_proxy.parameters)) for _ in range(20)]
        holder = stack.enter_context(RawClient(narrow_proxy.parameters))
        holder.query("CREATE TABLE arrivals (place serial, client int)")
        holder.query("BEGIN")
        for number, client in enumerate(clients):
            client.send(encode.query(f"INSERT INTO arrivals (client) VALUES ({number})"))
            # Answered only once the proxy has read what came before it.
            with RawClient(narrow_proxy.parameters, login=False) as probe:
                probe.send(encode.ssl_request())
                assert probe.read_exactly(1) == b"N"
        holder.query("COMMIT")
        for client in clients:
            client.read_until()
        assert value(holder, "SELECT string_agg(client::text, ' ' ORDER BY place) FROM arrivals") == " ".join(
            map(str, range(20))
        )


def test_a_burst_never_takes_more_than_pool_size(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=4)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(proxy.parameters)) for _ in range(60)]
        for client in clients:
            client.send(encode.query("SELECT pg_sleep(0.01)") * 5)
        most = 0
        for client in clients:
            for _ in range(5):
                client.read_until()
                most = max(most, len(proxy.server_pids()))
        assert most == 4


def test_a_database_may_have_a_pool_size_of_its_own(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=4, database_settings={"pool_size": 1})
    with RawClient(proxy.parameters) as holder, RawClient(proxy.parameters) as client:
        proxy.reload(connection_borrow_timeout=0.3)
        holder.query("BEGIN")
        client.send(encode.query("SELECT 1"))
        assert client.error_until()["C"] == "53300"


def test_idle_transaction_timeout_ends_the_client_and_frees_the_connection(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, idle_transaction_timeout=0.5)
    with RawClient(proxy.parameters) as holder, RawClient(proxy.parameters) as client:
        holder.query("BEGIN")
        client.send(encode.query("SELECT 1"))
        assert client.kinds_until() == "TDCZ"
        error = holder.error_until("E")
        assert (error["S"], error["C"]) == ("FATAL", "25P03")
        assert holder.is_closed()


def test_idle_transaction_timeout_leaves_a_long_query_alone(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, idle_transaction_timeout=0.1)
    with RawClient(proxy.parameters) as client:
        # All at once, or it would be idle in between, and on a busy machine for too long.
        extended = parse(b"", b"SELECT pg_sleep(2.5)") + bind() + execute() + encode.sync()
        client.send(encode.query("BEGIN") + encode.query("SELECT pg_sleep(2.5)") + extended)
        assert [client.kinds_until() for _ in range(3)] == ["CZ", "TDCZ", "12DCZ"]


def test_idle_transaction_timeout_leaves_a_long_execute_without_a_sync_alone(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, idle_transaction_timeout=3)
    with RawClient(proxy.parameters) as client:
        client.send(parse(b"", b"SELECT pg_sleep(5)") + bind() + execute() + encode.flush())
        assert client.kinds_until("C") == "12DC"
        client.send(encode.sync())
        assert client.kinds_until() == "Z"
        # Nor is one that answers bit by bit, of which the beginning is there long before the end.
        client.send(parse(b"", b"SELECT 1") + bind() + execute() + encode.flush())
        assert client.kinds_until("C") == "12DC"
        client.send(parse(b"", b"SELECT pg_sleep(5)") + bind() + execute() + encode.flush())
        assert client.kinds_until("C") == "12DC"
        client.send(encode.sync())
        assert client.kinds_until() == "Z"


def test_idle_transaction_timeout_ends_who_never_sends_the_sync(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, idle_transaction_timeout=0.5)
    with RawClient(proxy.parameters) as client:
        client.send(parse(b"", b"SELECT 1") + bind() + execute() + encode.flush())
        assert client.kinds_until("C") == "12DC"
        assert client.error_until("E")["C"] == "25P03"
        assert client.is_closed()


def test_idle_transaction_timeout_leaves_an_idle_session_alone(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=2, idle_transaction_timeout=0.1)
    with RawClient(proxy.parameters) as idle, RawClient(proxy.parameters) as pinned, RawClient(proxy.parameters) as end:
        pinned.query("CREATE TEMP TABLE mine (a int)")
        value(idle, "SELECT 1")
        end.query("BEGIN")
        # By the time that this one is ended, the others have been looked at as often.
        assert end.is_closed()
        assert value(idle, "SELECT 1") == "1"
        assert value(pinned, "SELECT count(*) FROM mine") == "0"


def test_a_server_connection_that_is_idle_for_long_is_closed(start_proxy: StartProxy) -> None:
    proxy = start_proxy(server_idle_timeout=0.2)
    with RawClient(proxy.parameters) as client:
        value(client, "SELECT 1")
        eventually(lambda: not proxy.server_pids(), what="the close of the idle server connection")
        assert value(client, "SELECT 1") == "1"


def test_a_server_connection_that_is_old_is_replaced_when_it_is_free(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, server_lifetime=0.5)
    with RawClient(proxy.parameters) as client:
        client.query("BEGIN")
        pid = value(client, "SELECT pg_backend_pid()")
        value(client, "SELECT pg_sleep(1.6)")
        assert value(client, "SELECT pg_backend_pid()") == pid
        client.query("COMMIT")
        eventually(lambda: value(client, "SELECT pg_backend_pid()") != pid)
        # The old one may still be on its way out.
        eventually(lambda: len(proxy.server_pids()) == 1)
