"""A client vanishes: what it left behind is cancelled, rolled back and cleaned, and the next client notices nothing.

All share one server connection, so a connection that were lost or left dirty could not go unnoticed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import psutil
import pytest
from tests.proxy.adversity.helpers import (
    assert_pristine,
    backend_pid,
    established,
    finish,
    reset,
    until_nothing_runs,
    until_running,
    value,
)
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually
from tests.support.rawclient import RawClient, bind, describe, execute, parse
from tests.support.relay import Relay, lose_packets

from tidegate_proxy.protocol import encode, wire

ways_to_vanish = pytest.mark.parametrize("vanish", [finish, reset])
Vanish = Callable[[RawClient], None]


@pytest.fixture
def table(narrow_proxy: ProxyProcess) -> str:
    with RawClient(narrow_proxy.parameters) as client:
        client.query("CREATE TABLE t (n int, s text)")
    return "t"


@ways_to_vanish
def test_in_a_transaction_it_is_rolled_back_and_the_connection_kept(
    narrow_proxy: ProxyProcess, table: str, vanish: Vanish
) -> None:
    with RawClient(narrow_proxy.parameters) as next_one:
        client = RawClient(narrow_proxy.parameters)
        client.query("BEGIN")
        client.query("INSERT INTO t VALUES (1)")
        pid = backend_pid(client)
        vanish(client)
        assert value(next_one, "SELECT count(*) FROM t") == "0"
        assert_pristine(next_one)
        assert backend_pid(next_one) == pid


@ways_to_vanish
def test_in_a_failed_transaction(narrow_proxy: ProxyProcess, vanish: Vanish) -> None:
    with RawClient(narrow_proxy.parameters) as next_one:
        pid = backend_pid(next_one)
        client = RawClient(narrow_proxy.parameters)
        client.query("BEGIN")
        client.query("SELECT 1/0")
        vanish(client)
        assert_pristine(next_one)
        assert backend_pid(next_one) == pid


@ways_to_vanish
@pytest.mark.parametrize("transaction", ["", "BEGIN"])
def test_in_a_running_query_the_query_is_cancelled(
    narrow_proxy: ProxyProcess, vanish: Vanish, transaction: str
) -> None:
    with RawClient(narrow_proxy.parameters) as next_one:
        pid = backend_pid(next_one)
        client = RawClient(narrow_proxy.parameters)
        if transaction:
            client.query(transaction)
        client.send(encode.query("SELECT pg_sleep(3600)"))
        until_running(narrow_proxy, "pg_sleep")
        vanish(client)
        until_nothing_runs(narrow_proxy)
        assert_pristine(next_one)
        assert backend_pid(next_one) == pid


@ways_to_vanish
def test_in_a_running_query_of_the_extended_protocol_that_was_not_synced(
    narrow_proxy: ProxyProcess, vanish: Vanish
) -> None:
    with RawClient(narrow_proxy.parameters) as next_one:
        pid = backend_pid(next_one)
        client = RawClient(narrow_proxy.parameters)
        client.send(parse(b"", b"SELECT pg_sleep(3600)") + bind() + execute() + encode.flush())
        until_running(narrow_proxy, "pg_sleep")
        vanish(client)
        until_nothing_runs(narrow_proxy)
        assert_pristine(next_one)
        assert backend_pid(next_one) == pid


@ways_to_vanish
def test_before_its_sync_what_it_executed_is_not_committed(
    narrow_proxy: ProxyProcess, table: str, vanish: Vanish
) -> None:
    with RawClient(narrow_proxy.parameters) as next_one:
        pid = backend_pid(next_one)
        client = RawClient(narrow_proxy.parameters)
        client.send(parse(b"", b"INSERT INTO t VALUES (1)") + bind() + execute() + encode.flush())
        client.read_until("C")
        vanish(client)
        assert value(next_one, "SELECT count(*) FROM t") == "0"
        assert backend_pid(next_one) == pid


@pytest.mark.parametrize("goodbye", [b"", encode.terminate()])
def test_with_a_query_that_the_server_skipped_for_want_of_a_sync(narrow_proxy: ProxyProcess, goodbye: bytes) -> None:
    with RawClient(narrow_proxy.parameters) as next_one:
        pid = backend_pid(next_one)
        client = RawClient(narrow_proxy.parameters)
        client.send(parse(b"", b"nonsense") + encode.query("SELECT pg_sleep(3600)") + goodbye)
        finish(client)
        assert_pristine(next_one)
        assert backend_pid(next_one) == pid


@ways_to_vanish
def test_with_a_pipeline_in_flight(narrow_proxy: ProxyProcess, table: str, vanish: Vanish) -> None:
    insert = parse(b"", b"INSERT INTO t VALUES (1)") + bind() + execute()
    sleep = parse(b"", b"SELECT pg_sleep(3600)") + bind() + execute() + encode.sync()
    with RawClient(narrow_proxy.parameters) as next_one:
        pid = backend_pid(next_one)
        client = RawClient(narrow_proxy.parameters)
        client.send(insert + encode.sync() + insert + sleep + insert)
        until_running(narrow_proxy, "pg_sleep")
        vanish(client)
        until_nothing_runs(narrow_proxy)
        # Committed: what was synced before. Neither what was in one transaction with the cancelled statement, nor the
        # statement whose Sync never came.
        assert value(next_one, "SELECT count(*) FROM t") == "1"
        assert_pristine(next_one)
        assert backend_pid(next_one) == pid


@ways_to_vanish
@pytest.mark.parametrize("extended", [False, True])
def test_in_a_copy_to_the_server(narrow_proxy: ProxyProcess, table: str, vanish: Vanish, extended: bool) -> None:
    with RawClient(narrow_proxy.parameters) as next_one:
        pid = backend_pid(next_one)
        client = RawClient(narrow_proxy.parameters)
        if extended:
            begin = parse(b"", b"COPY t FROM STDIN") + bind() + describe(b"P", b"") + execute() + encode.sync()
        else:
            begin = encode.query("COPY t FROM STDIN")
        client.send(begin)
        client.read_until("G")
        client.send(encode.message(wire.COPY_DATA, b"1\tone\n"))
        vanish(client)
        assert value(next_one, "SELECT count(*) FROM t") == "0"
        assert_pristine(next_one)
        assert backend_pid(next_one) == pid


@ways_to_vanish
def test_in_a_copy_from_the_server(narrow_proxy: ProxyProcess, vanish: Vanish) -> None:
    with RawClient(narrow_proxy.parameters) as next_one:
        pid = backend_pid(next_one)
        client = RawClient(narrow_proxy.parameters)
        client.send(encode.query("COPY (SELECT repeat('x', 100000) FROM generate_series(1, 100000)) TO STDOUT"))
        client.read_until("d")
        vanish_unread(client, vanish)
        until_nothing_runs(narrow_proxy)
        assert_pristine(next_one)
        assert backend_pid(next_one) == pid


def vanish_unread(client: RawClient, vanish: Vanish) -> None:
    """Vanish without taking what is still coming."""
    if vanish is reset:
        reset(client)
    else:
        client.socket.close()


@ways_to_vanish
def test_in_the_middle_of_a_message(narrow_proxy: ProxyProcess, table: str, vanish: Vanish) -> None:
    """The server has half a Query of 200 KB, which nothing can complete: the connection is closed, a new one opened."""
    query = encode.query("SELECT '" + "x" * 200_000 + "'")
    with RawClient(narrow_proxy.parameters) as next_one:
        client = RawClient(narrow_proxy.parameters)
        client.query("BEGIN")
        client.query("INSERT INTO t VALUES (1)")
        client.send(query[:100_000])
        vanish(client)
        assert value(next_one, "SELECT count(*) FROM t") == "0"
        assert_pristine(next_one)
        # The one that was closed may still be on its way out.
        eventually(lambda: len(narrow_proxy.server_pids()) == 1, what="the end of the other connection")


@ways_to_vanish
def test_while_it_waits_in_the_queue(narrow_proxy: ProxyProcess, table: str, vanish: Vanish) -> None:
    with RawClient(narrow_proxy.parameters) as holder, RawClient(narrow_proxy.parameters) as last:
        holder.query("BEGIN")
        client = RawClient(narrow_proxy.parameters)
        client.send(encode.query("INSERT INTO t VALUES (1)"))
        last.send(encode.query("SELECT count(*) FROM t"))
        vanish(client)
        if vanish is reset:
            # The reset must have arrived before the connection is free, else the statement runs: nobody forbade it.
            eventually(lambda: len(established(local=narrow_proxy.port)) == 2, what="the reset's arrival")
        holder.query("COMMIT")
        assert ("D", b"\0\x01\0\0\0\x010") in last.read_until()


@ways_to_vanish
@pytest.mark.parametrize(
    "state",
    [
        "SET work_mem TO '1234kB'",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "CREATE TEMP TABLE mine (a int)",
        "SELECT pg_advisory_lock(4711)",
        "PREPARE mine AS SELECT 1",
        "LISTEN mine",
        "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
        "BEGIN; SET work_mem TO '1234kB'; CREATE TEMP TABLE mine (a int); SELECT pg_advisory_lock(1)",
    ],
)
def test_with_state_in_its_session(narrow_proxy: ProxyProcess, vanish: Vanish, state: str) -> None:
    with RawClient(narrow_proxy.parameters) as next_one:
        pid = backend_pid(next_one)
        client = RawClient(narrow_proxy.parameters)
        client.query(state)
        vanish(client)
        assert_pristine(next_one)
        assert backend_pid(next_one) == pid


def test_a_connection_that_cannot_be_cleaned_in_time_is_closed(
    start_proxy: StartProxy, relay_to: Callable[[int], Relay], database: Database
) -> None:
    relay = relay_to(database.server.port)
    # Its own control connection is not looked at meanwhile.
    proxy = start_proxy(
        default_pool_size=1,
        server_reset_timeout=0.5,
        target_check_interval=60,
        database_settings={"port": relay.port},
    )
    with RawClient(proxy.parameters) as next_one:
        client = RawClient(proxy.parameters)
        client.query("BEGIN")
        pid = backend_pid(client)
        connections = established(remote=relay.port)
        relay.stall()
        reset(client)
        eventually(
            lambda: not set(connections) <= set(established(remote=relay.port)), what="the end of the connection"
        )
        relay.resume()
        assert backend_pid(next_one) != pid
        assert_pristine(next_one)


def test_a_hundred_clients_that_vanish_at_once_leave_every_connection_usable(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=5)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(proxy.parameters)) for _ in range(100)]
        for number, client in enumerate(clients):
            client.send(encode.query("BEGIN; SELECT pg_sleep(3600)" if number % 2 else "SELECT 1"))
        until_running(proxy, "pg_sleep")
        for client in clients:
            reset(client)
        until_nothing_runs(proxy)
    with contextlib.ExitStack() as stack:
        holders = [stack.enter_context(RawClient(proxy.parameters)) for _ in range(5)]
        for holder in holders:
            assert_pristine(holder)
            holder.query("BEGIN")
        assert len({backend_pid(holder) for holder in holders}) == 5


@pytest.mark.parametrize("reloaded", [False, True], ids=["from the start", "after a reload"])
def test_a_client_whose_machine_has_gone_is_noticed(start_proxy: StartProxy, reloaded: bool) -> None:
    proxy = start_proxy(client_tcp_user_timeout=600 if reloaded else 3)
    if reloaded:
        proxy.reload(client_tcp_user_timeout=3)

    def connected() -> int:
        connections = psutil.Process(proxy.pid).net_connections(kind="tcp")
        return sum(each.laddr.port == proxy.port and each.status == "ESTABLISHED" for each in connections)

    with RawClient(proxy.parameters) as client:
        client.query("SELECT 1")
        assert connected() == 1
        lose_packets(client.socket)
        eventually(lambda: connected() == 0, timeout=60, what="the proxy's noticing")
