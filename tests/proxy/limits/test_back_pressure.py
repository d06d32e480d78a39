"""Whoever does not read is waited for, not stored for."""

from __future__ import annotations

import contextlib
import hashlib
import select
from collections.abc import Callable

from tests.proxy.adversity.helpers import value
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually
from tests.support.rawclient import RawClient
from tests.support.relay import Relay

from tidegate_proxy.protocol import encode, wire

MEGABYTE = 1 << 20
GROWTH = 16 * MEGABYTE
GIGABYTE_OF_ROWS = "SELECT repeat('x', 1000000) FROM generate_series(1, 1000)"


def blocked_sending(proxy: ProxyProcess) -> bool:
    """Whether the server waits for somebody to take what it sends."""
    with proxy.database.server.connect() as conn:
        rows = conn.execute(
            "SELECT 1 FROM pg_stat_activity WHERE usename = %s AND wait_event = 'ClientWrite'", [proxy.database.user]
        ).fetchall()
    return bool(rows)


def read_and_drop(client: RawClient, size: int) -> None:
    while size > 0:
        size -= len(client.socket.recv(min(size, MEGABYTE)))


def test_a_client_that_does_not_read_a_gigabyte(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=2)
    with RawClient(proxy.parameters) as client, RawClient(proxy.parameters) as other:
        value(other, "SELECT 1")
        before = proxy.resident_memory()
        client.send(encode.query(GIGABYTE_OF_ROWS))
        eventually(lambda: blocked_sending(proxy), what="a server that waits")
        for _ in range(20):
            value(other, "SELECT 1")
        assert proxy.resident_memory() - before < GROWTH


def test_a_gigabyte_passes_through(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1)
    with RawClient(proxy.parameters) as client:
        value(client, "SELECT 1")
        before = proxy.resident_memory()
        client.send(encode.query(GIGABYTE_OF_ROWS))
        assert client.read()[0] == "T"
        most = 0
        rest = 1000 * (7 + 4 + 1_000_000) - len(client._buffer)
        client._buffer = b""
        for _ in range(100):
            read_and_drop(client, rest // 100)
            most = max(most, proxy.resident_memory())
        read_and_drop(client, rest % 100)
        assert client.kinds_until() == "CZ"
        assert most - before < GROWTH


def test_one_row_of_200_megabytes_passes_through(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1)
    size = 200_000_000
    with RawClient(proxy.parameters) as client:
        value(client, "SELECT 1")
        before = proxy.resident_memory()
        client.send(encode.query(f"SELECT repeat('x', {size})"))
        assert client.read()[0] == "T"
        rest = 7 + 4 + size - len(client._buffer)
        client._buffer = b""
        most = 0
        for _ in range(20):
            read_and_drop(client, rest // 20)
            most = max(most, proxy.resident_memory())
        read_and_drop(client, rest % 20)
        assert client.kinds_until() == "CZ"
        assert most - before < GROWTH
        assert value(client, "SELECT 1") == "1"


def test_a_query_of_50_megabytes_passes_through(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1)
    with RawClient(proxy.parameters) as client:
        value(client, "SELECT 1")
        before = proxy.resident_memory()
        assert value(client, "SELECT length('" + "x" * 50_000_000 + "')") == "50000000"
        assert proxy.resident_memory() - before < GROWTH


def test_a_server_that_does_not_read_300_megabytes_of_copy_data(
    start_proxy: StartProxy, relay_to: Callable[[int], Relay], database: Database
) -> None:
    relay = relay_to(database.server.port)
    proxy = start_proxy(default_pool_size=1, database_settings={"port": relay.port}, idle_transaction_timeout=2)
    line = b"x" * 65_535 + b"\n"
    count = 300_000_000 // len(line)
    data = memoryview(encode.message(wire.COPY_DATA, line) * count)
    with RawClient(proxy.parameters) as client:
        client.query("CREATE UNLOGGED TABLE t (s text)")
        client.send(encode.query("COPY t FROM STDIN"))
        client.read_until("G")
        before = proxy.resident_memory()
        relay.stall()
        # The client is not silent: it is made to wait, for longer than idle_transaction_timeout, and may stay.
        sent = send_until_stuck(client, data, patience=5)
        assert sent < len(data)
        assert proxy.resident_memory() - before < GROWTH
        relay.resume()
        client.socket.settimeout(120)
        client.socket.sendall(data[sent:])
        assert proxy.resident_memory() - before < GROWTH
        client.send(encode.message(wire.COPY_DONE))
        assert client.kinds_until() == "CZ"
        assert value(client, "SELECT count(*) FROM t") == str(count)


def send_until_stuck(client: RawClient, data: memoryview, patience: float) -> int:
    """Send until nothing more is taken for `patience` seconds; returns how many bytes went."""
    client.socket.setblocking(False)
    sent = 0
    while sent < len(data) and select.select([], [client.socket], [], patience)[1]:
        with contextlib.suppress(BlockingIOError):
            sent += client.socket.send(data[sent : sent + MEGABYTE])
    return sent


def test_many_rows_through_a_slow_reader_arrive_intact(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1)
    rows = "SELECT n, repeat(md5(n::text), 20) AS text FROM generate_series(1, 80000) AS n"
    with RawClient(proxy.parameters) as client:
        expected = value(client, f"SELECT md5(string_agg(n || text, '')) FROM ({rows}) AS row")
        client.send(encode.query(rows))
        eventually(lambda: blocked_sending(proxy), what="a server that waits")
        seen = hashlib.md5(usedforsecurity=False)
        for kind, body in client.read_until():
            if kind == "D":
                length = int.from_bytes(body[2:6], "big")
                seen.update(body[6 : 6 + length] + body[10 + length :])
        assert seen.hexdigest() == expected
