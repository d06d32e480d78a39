"""The writer's name leads to another server while the one it has left lives on and takes writes."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from tests.e2e.failover.conftest import NO_CONTROL, MakeProxy, Pair
from tests.support.dns import DNSServer
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually
from tests.support.rawclient import RawClient

from tidegate_load.postgres import EmbeddedPostgres
from tidegate_proxy.protocol import encode

NAME = "db.example.com"

Connection = psycopg.Connection[tuple[Any, ...]]


def two_writers(pair: Pair) -> None:
    """Promote the standby and leave the primary as it is: each takes writes that the other never sees."""
    pair.primary.settings["synchronous_standby_names"] = ""
    pair.primary.reload()
    with pair.primary.connect() as admin:
        query = "SHOW synchronous_standby_names"
        eventually(lambda: admin.execute(query).fetchone() == ("",), what="a primary that waits for no standby")
    pair.standby.promote()


def insert(conn: Connection, client: str, n: int = 1) -> None:
    conn.execute("INSERT INTO written VALUES (%s, %s)", [client, n])


def written(server: EmbeddedPostgres, client: str) -> set[int]:
    with server.connect(dbname="app") as admin:
        return {int(n) for (n,) in admin.execute("SELECT n FROM written WHERE client = %s", [client])}


def clients_at(pair: Pair, proxy: ProxyProcess, server: EmbeddedPostgres) -> set[int]:
    """Process ids there of the server connections that serve clients."""
    proxy.database = Database(server, pair.database.name, pair.database.user, pair.database.password)
    return proxy.server_pids()


def host(conn: Connection) -> str:
    row = conn.execute("SELECT pg_catalog.host(pg_catalog.inet_server_addr())").fetchone()
    assert row is not None
    return str(row[0])


def wait_until_followed(pair: Pair, proxy: ProxyProcess, conn: Connection) -> None:
    eventually(lambda: host(conn) == pair.standby.host, timeout=60, what="a transaction on the new server")


@pytest.mark.timeout(300)
def test_a_name_that_moves_is_followed_though_the_server_it_has_left_takes_writes(
    pair: Pair, proxy_for: MakeProxy, dns: DNSServer
) -> None:
    dns.names[NAME] = pair.primary.host
    proxy = proxy_for(pair.database, {"host": NAME}, default_pool_size=4, dns_servers=[dns.address])
    with proxy.connect() as idle, proxy.connect() as busy, proxy.connect() as writer:
        idle.execute("SELECT 1")
        insert(writer, "writer", 0)
        busy.execute("BEGIN")
        insert(busy, "busy", 1)
        two_writers(pair)
        dns.names[NAME] = pair.standby.host
        wait_until_followed(pair, proxy, writer)
        for n in range(1, 21):
            insert(writer, "writer", n)
        assert written(pair.standby, "writer") == set(range(21))
        assert written(pair.primary, "writer") == {0}
        # What had begun ends where it is, and what comes next is at home with the others.
        insert(busy, "busy", 2)
        busy.execute("COMMIT")
        insert(busy, "busy", 3)
        assert (written(pair.primary, "busy"), written(pair.standby, "busy")) == ({1, 2}, {3})
        assert host(idle) == pair.standby.host
        eventually(lambda: not clients_at(pair, proxy, pair.primary), what="no connection to the old server")
    assert "the name leads elsewhere" in proxy.log


@pytest.mark.timeout(300)
def test_who_does_not_leave_the_server_that_the_name_has_left_is_ended(
    pair: Pair, proxy_for: MakeProxy, dns: DNSServer
) -> None:
    dns.names[NAME] = pair.primary.host
    proxy = proxy_for(
        pair.database, {"host": NAME}, default_pool_size=4, dns_servers=[dns.address], left_writer_timeout=1
    )
    with proxy.connect() as pinned, proxy.connect() as busy, proxy.connect() as writer:
        pinned.execute("CREATE TEMP TABLE mine (n int)")
        insert(pinned, "pinned")
        busy.execute("BEGIN")
        insert(busy, "busy", 1)
        two_writers(pair)
        dns.names[NAME] = pair.standby.host
        wait_until_followed(pair, proxy, writer)
        eventually(lambda: not clients_at(pair, proxy, pair.primary), what="no connection to the old server")
        with pytest.raises(psycopg.OperationalError, match="another server takes the writes") as lost:
            insert(busy, "busy", 2)
        assert lost.value.sqlstate == "08006"
        assert "find out before you run it again" in str(lost.value.diag.message_hint)
        # The transaction is gone, the connection is not; whose state was at the old server loses both.
        busy.rollback()
        insert(busy, "busy", 3)
        with pytest.raises(psycopg.OperationalError):
            insert(pinned, "pinned", 2)
        assert pinned.broken
    assert (written(pair.primary, "busy"), written(pair.standby, "busy")) == (set(), {3})


@pytest.mark.timeout(300)
def test_who_does_not_leave_a_primary_that_another_one_of_the_list_has_replaced_is_ended(
    pair: Pair, proxy_for: MakeProxy
) -> None:
    settings = {"host": pair.primary.host, "endpoints": [pair.standby.host]}
    proxy = proxy_for(pair.database, settings, left_writer_timeout=1)
    with proxy.connect() as pinned, proxy.connect() as writer:
        pinned.execute("CREATE TEMP TABLE mine (n int)")
        two_writers(pair)
        wait_until_followed(pair, proxy, writer)
        eventually(lambda: not clients_at(pair, proxy, pair.primary), what="no connection to the old server")
        with pytest.raises(psycopg.OperationalError):
            insert(pinned, "pinned")
    assert written(pair.primary, "pinned") == set()


@pytest.mark.timeout(300)
def test_a_statement_that_runs_on_at_the_server_that_the_name_has_left_is_cancelled(
    pair: Pair, proxy_for: MakeProxy, dns: DNSServer
) -> None:
    """A server commits a statement whose client has gone: it only finds out when it is done."""
    dns.names[NAME] = pair.primary.host
    proxy = proxy_for(
        pair.database, {"host": NAME}, default_pool_size=4, dns_servers=[dns.address], left_writer_timeout=1
    )
    with RawClient(proxy.parameters, timeout=60) as slow, proxy.connect() as writer:
        with pair.primary.connect(dbname="app") as admin:
            admin.execute("SELECT pg_advisory_lock(42)")
            slow.send(encode.query("INSERT INTO written SELECT 'slow', 1 FROM pg_advisory_xact_lock(42)"))
            eventually(lambda: clients_at(pair, proxy, pair.primary), what="the statement in flight")
            two_writers(pair)
            dns.names[NAME] = pair.standby.host
            wait_until_followed(pair, proxy, writer)
            assert slow.error_until()["C"] == "08006"
            eventually(lambda: not clients_at(pair, proxy, pair.primary), what="no connection to the old server")
        assert slow.query("INSERT INTO written VALUES ('slow', 2)")[-1][0] == "Z"
    assert written(pair.standby, "slow") == {2}
    assert written(pair.primary, "slow") == set()


@pytest.mark.timeout(300)
def test_no_connection_to_the_server_that_the_name_has_left_is_used_though_the_new_one_lets_the_proxy_not_watch_it(
    pair: Pair, proxy_for: MakeProxy, dns: DNSServer
) -> None:
    dns.names[NAME] = pair.primary.host
    proxy = proxy_for(pair.database, {"host": NAME}, default_pool_size=4, dns_servers=[dns.address])
    with proxy.connect() as idle, proxy.connect() as writer:
        insert(idle, "writer", 0)
        two_writers(pair)
        with pair.standby.connect(dbname="app") as admin:
            admin.execute(NO_CONTROL)
        dns.names[NAME] = pair.standby.host
        wait_until_followed(pair, proxy, writer)
        for n in range(1, 6):
            insert(writer, "writer", n)
            insert(idle, "writer", -n)
    assert written(pair.primary, "writer") == {0}


@pytest.mark.timeout(300)
def test_an_address_that_is_among_the_names_addresses_is_kept(
    lone_server: Database, proxy_for: MakeProxy, dns: DNSServer
) -> None:
    dns.names[NAME] = f"{lone_server.server.host} 127.0.0.9 127.0.0.10"
    proxy = proxy_for(lone_server, {"host": NAME}, dns_servers=[dns.address], target_check_interval=0.1)
    with proxy.connect() as conn:
        conn.execute("SELECT 1")
        before, asked = proxy.server_pids(), dns.asked
        eventually(lambda: dns.asked > asked + 20, what="look-ups of the name in all its orders")
        conn.execute("SELECT 1")
        assert proxy.server_pids() == before
    assert "the name leads elsewhere" not in proxy.log
    assert len([line for line in proxy.log.splitlines() if "target" in line and "AVAILABLE" in line]) == 1


@pytest.mark.timeout(300)
def test_a_name_that_does_not_resolve_has_not_moved(
    lone_server: Database, proxy_for: MakeProxy, dns: DNSServer
) -> None:
    dns.names[NAME] = lone_server.server.host
    proxy = proxy_for(lone_server, {"host": NAME}, dns_servers=[dns.address], target_check_interval=0.1)
    with proxy.connect() as conn:
        conn.execute("SELECT 1")
        before, asked = proxy.server_pids(), dns.asked
        del dns.names[NAME]
        eventually(lambda: dns.asked > asked + 10, what="look-ups")
        asked, dns.answering = dns.asked, False
        eventually(lambda: dns.asked > asked + 4, what="look-ups without an answer")
        conn.execute("SELECT 1")
        assert proxy.server_pids() == before
    assert "UNAVAILABLE" not in proxy.log
