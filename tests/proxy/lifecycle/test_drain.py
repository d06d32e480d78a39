"""SIGTERM and SIGINT: no new clients, transactions finish, everyone is told, nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest
from tests.proxy.adversity.helpers import until_running, value
from tests.support.proxy import ProxyProcess, StartProxy, eventually
from tests.support.rawclient import RawClient, bind, execute, parse

from tidegate_proxy.protocol import encode, wire

signals = pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])


def drain(proxy: ProxyProcess, how: signal.Signals = signal.SIGTERM) -> None:
    """Send the signal and wait until nobody is accepted any more."""
    os.kill(proxy.pid, how)
    eventually(lambda: "draining" in proxy.log, what="the drain")


def is_told(client: RawClient) -> bool:
    """Whether the client gets 57P01, and then the end."""
    error = client.error_until("E")
    return (error["S"], error["C"]) == ("FATAL", "57P01") and client.is_closed()


def ended(proxy: ProxyProcess) -> bool:
    """Whether the proxy has ended well and left nothing on the server."""
    assert proxy.process.wait(60) == 0, proxy.log
    eventually(lambda: not proxy.server_pids(), what="the end of the server connections")
    return True


@signals
def test_with_nobody_there(proxy: ProxyProcess, how: signal.Signals) -> None:
    drain(proxy, how)
    assert ended(proxy)


@signals
def test_idle_clients_are_told_at_once(proxy: ProxyProcess, how: signal.Signals) -> None:
    with RawClient(proxy.parameters) as fresh, RawClient(proxy.parameters) as used:
        value(used, "SELECT 1")
        drain(proxy, how)
        assert is_told(fresh)
        assert is_told(used)
        assert ended(proxy)


@signals
def test_a_transaction_under_way_finishes_and_nobody_new_gets_in(proxy: ProxyProcess, how: signal.Signals) -> None:
    with RawClient(proxy.parameters) as client:
        client.query("CREATE TABLE t (n int)")
        client.query("BEGIN")
        drain(proxy, how)
        with pytest.raises(ConnectionError):
            RawClient(proxy.parameters)
        client.query("INSERT INTO t VALUES (1)")
        assert value(client, "SELECT count(*) FROM t") == "1"
        client.send(encode.query("COMMIT"))
        assert client.kinds_until() == "CZ"
        assert is_told(client)
        assert ended(proxy)
    with proxy.database.server.connect(dbname=proxy.database.name) as conn:
        assert conn.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_a_query_a_pipeline_and_a_copy_under_way_finish(proxy: ProxyProcess) -> None:
    request = parse(b"", b"SELECT 'piped' FROM gate") + bind() + execute() + encode.sync()
    with contextlib.ExitStack() as stack:
        query, pipeline, copy = [stack.enter_context(RawClient(proxy.parameters)) for _ in range(3)]
        query.query("CREATE TABLE t (n int); CREATE TABLE gate AS SELECT 1 AS n")
        gate = stack.enter_context(proxy.database.server.connect(dbname=proxy.database.name, autocommit=False))
        gate.execute("LOCK TABLE gate")
        query.send(encode.query("SELECT 'alone' FROM gate"))
        pipeline.send(request * 5)
        copy.send(encode.query("COPY t FROM STDIN"))
        copy.read_until("G")
        until_running(proxy, "alone")
        until_running(proxy, "piped")
        drain(proxy)
        gate.rollback()
        copy.send(encode.message(wire.COPY_DATA, b"1\n") + encode.message(wire.COPY_DONE))
        assert copy.kinds_until() == "CZ"
        assert is_told(copy)
        assert query.kinds_until() == "TDCZ"
        assert is_told(query)
        assert "".join(kind for kind, _ in pipeline.read_until("E")).count("Z") >= 1
        assert pipeline.is_closed()
        assert ended(proxy)


def test_whoever_waits_in_the_queue_is_served_first(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as holder, RawClient(narrow_proxy.parameters) as waiting:
        holder.query("BEGIN")
        waiting.send(encode.query("SELECT 1"))
        # By the time that this is answered, the proxy has read what came before it.
        value(holder, "SELECT 1")
        drain(narrow_proxy)
        holder.send(encode.query("COMMIT"))
        assert holder.kinds_until() == "CZ"
        assert is_told(holder)
        assert waiting.kinds_until() == "TDCZ"
        assert is_told(waiting)
        assert ended(narrow_proxy)


def test_drain_timeout_ends_what_does_not_finish(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=2, drain_timeout=0.3)
    with contextlib.ExitStack() as stack:
        idle, busy, waiting = [stack.enter_context(RawClient(proxy.parameters)) for _ in range(3)]
        idle.query("BEGIN")
        busy.send(encode.query("SELECT pg_sleep(3600)"))
        until_running(proxy, "pg_sleep")
        waiting.send(encode.query("SELECT 1"))
        drain(proxy)
        for client in (idle, busy, waiting):
            assert is_told(client)
        assert ended(proxy)


@signals
def test_a_second_signal_ends_it_at_once(proxy: ProxyProcess, how: signal.Signals) -> None:
    with RawClient(proxy.parameters) as client:
        client.query("BEGIN")
        drain(proxy, how)
        os.kill(proxy.pid, how)
        assert is_told(client)
        assert ended(proxy)


def test_a_pinned_client_is_told_when_its_transaction_is_over(proxy: ProxyProcess) -> None:
    with RawClient(proxy.parameters) as idle, RawClient(proxy.parameters) as busy:
        idle.query("CREATE TEMP TABLE mine (a int)")
        busy.query("CREATE TEMP TABLE mine (a int)")
        busy.query("BEGIN")
        drain(proxy)
        assert is_told(idle)
        busy.send(encode.query("COMMIT"))
        assert busy.kinds_until() == "CZ"
        assert is_told(busy)
        assert ended(proxy)


def test_a_client_that_is_logging_in_is_told(proxy: ProxyProcess) -> None:
    with RawClient(proxy.parameters, login=False) as client:
        client.send(encode.startup_message({"user": proxy.database.user}))
        assert client.read()[0] == "R"
        drain(proxy)
        assert is_told(client)
        assert ended(proxy)


def test_a_client_that_takes_nothing_does_not_hold_it_up(start_proxy: StartProxy) -> None:
    proxy = start_proxy(drain_timeout=0.3)
    with RawClient(proxy.parameters) as deaf:
        deaf.send(encode.query("SELECT repeat('x', 1000000) FROM generate_series(1, 100)"))
        deaf.read()
        drain(proxy)
        assert ended(proxy)


def test_clients_that_vanished_before_leave_nothing_behind(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=3)
    for _ in range(3):
        client = RawClient(proxy.parameters)
        client.send(encode.query("BEGIN; SELECT pg_sleep(3600)"))
        client.socket.close()
    drain(proxy)
    assert ended(proxy)
