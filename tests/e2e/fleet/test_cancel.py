"""A CancelRequest ends the query of its client, whichever member it comes to."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

import psycopg
import pytest
from tests.e2e.fleet.clients import Observer
from tests.e2e.fleet.conftest import StartMember
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually
from tests.support.rawclient import RawClient
from tests.support.relay import Relay

from tidegate_load.postgres import free_port
from tidegate_proxy.fleet.name import unpack_address
from tidegate_proxy.protocol import encode


def send_cancel(address: tuple[str, int], pid: int, key: bytes) -> None:
    """Send a CancelRequest there, and wait until the connection is closed."""
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(struct.pack("!iii", 12 + len(key), 80877102, pid) + key)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def is_running(database: Database) -> bool:
    with database.server.connect() as conn:
        rows = conn.execute("SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(61)' AND state = 'active'")
        return rows.rowcount > 0


@pytest.fixture
def pair(start_member: StartMember) -> tuple[ProxyProcess, ProxyProcess]:
    """Two members."""
    return start_member(), start_member()


def test_another_member_passes_it_on(database: Database, pair: tuple[ProxyProcess, ProxyProcess]) -> None:
    owner, other = pair
    with RawClient(owner.parameters) as client:
        client.send(encode.query("SELECT pg_sleep(61)"))
        eventually(lambda: is_running(database), timeout=60)
        # A wrong key does nothing, wherever it goes.
        wrong = bytes(byte ^ 1 for byte in client.key)
        for member in pair:
            send_cancel(("127.0.0.1", member.port), client.pid, wrong)
        assert is_running(database)
        send_cancel(("127.0.0.1", other.port), client.pid, client.key)
        assert client.kinds_until() == "TEZ"
    assert not is_running(database)


def test_it_waits_for_what_the_next_look_at_the_fleet_shows(
    database: Database, start_member: StartMember, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(database.server.port)
    relay.stall()
    owner, other = start_member(), start_member(database_settings={"port": relay.port})
    with RawClient(owner.parameters) as client:
        client.send(encode.query("SELECT pg_sleep(61)"))
        eventually(lambda: is_running(database), timeout=60)
        sending = threading.Thread(target=send_cancel, args=[("127.0.0.1", other.port), client.pid, client.key])
        sending.start()
        sending.join(2)
        assert sending.is_alive(), "it has given up"
        relay.resume()
        assert client.kinds_until() == "TEZ"
        sending.join(60)


def two_free_ports(host: str) -> int:
    """The first of two ports in a row of this address that nobody has at present, nor is given by the kernel."""
    while True:
        port = free_port(host)
        with contextlib.suppress(OSError), socket.create_server((host, port + 1)):
            return port


def published(observer: Observer) -> set[tuple[str, int] | None]:
    return {unpack_address(member.address) for member in observer.members.values()}


def test_it_is_passed_on_to_the_address_and_the_port_that_are_configured(
    database: Database, start_member: StartMember
) -> None:
    # Nothing else of the member is at this address.
    address, port = "127.0.0.2", two_free_ports("127.0.0.2")
    owner = start_member(advertise_address=address, fleet_port=port)
    other = start_member()
    with Observer(database) as observer, RawClient(owner.parameters) as client:
        eventually(lambda: (address, port) in published(observer) and len(observer.members) == 2, timeout=60)
        client.send(encode.query("SELECT pg_sleep(61)"))
        eventually(lambda: is_running(database), timeout=60)
        send_cancel(("127.0.0.1", other.port), client.pid, client.key)
        assert client.kinds_until() == "TEZ"


def test_each_of_several_workers_has_a_port_for_it(database: Database, start_member: StartMember) -> None:
    port = two_free_ports("127.0.0.1")
    proxy = start_member(fleet=False, workers=2, fleet_port=port)
    with Observer(database) as observer:
        eventually(lambda: published(observer) == {("127.0.0.1", port), ("127.0.0.1", port + 1)}, timeout=60)
        with RawClient(proxy.parameters) as client:
            client.send(encode.query("SELECT pg_sleep(61)"))
            eventually(lambda: is_running(database), timeout=60)
            # One of them is the client's, and neither passes it on.
            for each in (port, port + 1):
                send_cancel(("127.0.0.1", each), client.pid, client.key)
            assert client.kinds_until() == "TEZ"


def test_the_port_for_other_members_takes_nothing_else_and_passes_nothing_on(
    database: Database, pair: tuple[ProxyProcess, ProxyProcess]
) -> None:
    owner, _ = pair
    with Observer(database) as observer, RawClient(owner.parameters) as client:
        eventually(lambda: len(observer.members) == 2, timeout=60)
        addresses = [unpack_address(member.address) for member in observer.members.values()]
        client.send(encode.query("SELECT pg_sleep(61)"))
        eventually(lambda: is_running(database), timeout=60)
        for address in addresses:
            assert address is not None
            for junk in (
                b"GET / HTTP/1.0\r\n\r\n",
                struct.pack("!ii", 8, 80877103),
                b"\0\0\0\x10\0\x03\0\0user\0a\0\0",
            ):
                with socket.create_connection(address, timeout=60) as connection:
                    connection.sendall(junk)
                    connection.shutdown(socket.SHUT_WR)
                    with contextlib.suppress(ConnectionResetError):
                        assert connection.recv(1) == b""
        assert is_running(database)
        for address in addresses:
            assert address is not None
            send_cancel(address, client.pid, client.key)
        assert client.kinds_until() == "TEZ"


def test_drivers_cancel_through_any_of_several_workers(database: Database, start_member: StartMember) -> None:
    proxy = start_member(fleet=False, workers=3)

    def query(conn: psycopg.Connection[tuple[object, ...]]) -> None:
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute("SELECT pg_sleep(61)")

    for _ in range(6):
        with proxy.connect() as conn:
            thread = threading.Thread(target=query, args=[conn])
            thread.start()
            eventually(lambda: is_running(database), timeout=60)
            conn.cancel_safe(timeout=60)
            thread.join(60)
            assert not thread.is_alive()
