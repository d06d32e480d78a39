"""A server of which nothing is heard any more: packets are lost, or it accepts and never answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
from tests.e2e.failover.conftest import MakeProxy, start_pair
from tests.e2e.failover.slots import assert_all_slots_free
from tests.support.dns import DNSServer
from tests.support.postgres import Database
from tests.support.proxy import eventually
from tests.support.rawclient import RawClient
from tests.support.relay import Relay

from tidegate_load.postgres import EmbeddedPostgres
from tidegate_proxy.protocol import encode

POOL_SIZE = 4
TIMES = {"server_tcp_user_timeout": 3, "target_check_timeout": 1, "server_connect_timeout": 2}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["packets are lost", "no answer"])
def test_who_has_not_sent_anything_waits_until_the_server_is_back(
    lone_server: Database, proxy_for: MakeProxy, relay_to: Callable[[int], Relay], how: str
) -> None:
    relay = relay_to(lone_server.server.port)
    proxy = proxy_for(lone_server, {"port": relay.port}, default_pool_size=POOL_SIZE, reserve_pool_size=0, **TIMES)
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(proxy.parameters, timeout=60)) for _ in range(10)]
        for client in clients:
            client.query("SELECT 1")
        # On a busy machine, an answer may have taken too long before.
        eventually(lambda: proxy.log.count(": AVAILABLE") > proxy.log.count("UNREACHABLE"), what="an available server")
        before = proxy.log.count("UNREACHABLE")
        if how == "packets are lost":
            relay.drop_packets()
        else:
            relay.black_hole()
        eventually(lambda: proxy.log.count("UNREACHABLE") > before, what="the proxy's noticing")
        for client in clients:
            client.send(encode.query("SELECT 2"))
        relay.resume()
        for client in clients:
            assert client.kinds_until() == "TDCZ"
    assert_all_slots_free(proxy, lone_server, POOL_SIZE)


@pytest.mark.timeout(300)
def test_a_statement_in_flight_fails_in_bounded_time_when_packets_are_lost(
    lone_server: Database, proxy_for: MakeProxy, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(lone_server.server.port)
    proxy = proxy_for(lone_server, {"port": relay.port}, default_pool_size=POOL_SIZE, reserve_pool_size=0, **TIMES)
    with RawClient(proxy.parameters, timeout=60) as client, RawClient(proxy.parameters, timeout=60) as other:
        client.send(encode.query("SELECT pg_sleep(3600)"))
        other.query("BEGIN")
        eventually(lambda: len(proxy.server_pids()) == 2, what="both at work")
        relay.drop_packets()
        error = client.error_until()
        assert error["C"] == "08006"
        assert "COMMIT" in error["H"]
        # Its connection is seen to be lost between two statements.
        other.send(encode.query("SELECT 1"))
        assert other.error_until()["C"] == "08006"
        # The server has keepalive probes of its own, and finds out as well.
        relay.reset_all()
        relay.resume()
        assert client.query("SELECT 1")[-1][0] == "Z"
        assert other.query("INSERT INTO written VALUES ('after', 1)")[-1][0] == "Z"
    with lone_server.server.connect() as conn:
        # The server, which has heard of nothing, still runs it.
        conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'")
    assert_all_slots_free(proxy, lone_server, POOL_SIZE)


@pytest.mark.timeout(300)
def test_a_primary_of_which_nothing_is_heard_is_left_for_the_one_that_its_name_moves_to(
    proxy_for: MakeProxy, relay_to: Callable[[int], Relay], dns: DNSServer
) -> None:
    relays: list[Relay] = []

    def on_the_way(primary: EmbeddedPostgres) -> int:
        relays.append(relay_to(primary.port))
        return relays[0].port

    with ExitStack() as stack:
        pair = start_pair(stack, on_the_way)
        (relay,) = relays
        dns.names["db.example.com"] = "127.0.0.1"
        proxy = proxy_for(
            pair.database,
            {"host": "db.example.com", "port": relay.port},
            default_pool_size=POOL_SIZE,
            reserve_pool_size=0,
            dns_servers=[dns.address],
            **TIMES,
        )
        clients = [stack.enter_context(RawClient(proxy.parameters, timeout=60)) for _ in range(20)]
        for client in clients:
            client.query("SELECT 1")
        asleep, between, late, committing, *others = clients
        asleep.send(encode.query("SELECT pg_sleep(3600)"))
        late.send(encode.query("SELECT pg_sleep(3600) /* tidegate.deadline_ms=2000 */"))
        for number, client in enumerate((between, committing)):
            client.query(f"BEGIN; INSERT INTO written VALUES ('lost', {number})")
        eventually(lambda: len(proxy.server_pids()) == POOL_SIZE, what="all at work")
        relay.drop_packets()
        committing.send(encode.query("COMMIT"))
        # The pool has no place for these until the proxy has given up what is lost.
        waiting = others[:10]
        for number, client in enumerate(waiting):
            client.send(encode.query(f"INSERT INTO written VALUES ('waited', {number})"))
        pair.standby.promote()
        dns.names["db.example.com"] = pair.standby.host
        for client in waiting:
            assert client.kinds_until() == "CZ"
        for client in (asleep, committing):
            error = client.error_until()
            assert error["C"] == "08006"
            assert "COMMIT" in error["H"]
        assert late.error_until()["C"] in ("57014", "08006")
        between.send(encode.query("SELECT 1"))
        assert between.error_until()["C"] == "08006"
        between.query("ROLLBACK")
        # Nobody has lost the connection to the proxy, whether idle or not.
        for client in clients:
            assert client.query("SELECT host(inet_server_addr())")[1][1].endswith(pair.standby.host.encode())
        on = Database(pair.standby, pair.database.name, pair.database.user, pair.database.password)
        assert_all_slots_free(proxy, on, POOL_SIZE)
        relay.reset_all()
        relay.resume()
        with pair.standby.connect(dbname="app") as admin:
            rows = admin.execute("SELECT client, count(*) FROM written GROUP BY client").fetchall()
        # The COMMIT never left, and neither did its answer.
        assert rows == [("waited", 10)]


@pytest.mark.timeout(300)
def test_a_statement_of_which_nothing_is_heard_ends_at_its_clients_deadline(
    lone_server: Database, proxy_for: MakeProxy, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(lone_server.server.port)
    times = TIMES | {"server_tcp_user_timeout": 600, "server_reset_timeout": 1}
    proxy = proxy_for(lone_server, {"port": relay.port}, default_pool_size=1, reserve_pool_size=0, **times)
    with RawClient(proxy.parameters, timeout=60) as client:
        client.query("SELECT 1")
        client.send(encode.query("SELECT pg_sleep(3600) /* tidegate.deadline_ms=3000 */"))
        eventually(lambda: proxy.server_pids(), what="the statement in flight")
        relay.drop_packets()
        assert client.error_until()["C"] == "57014"
        relay.reset_all()
        relay.resume()
        # The pool's only place is free again.
        assert client.query("SELECT 1")[-1][0] == "Z"
