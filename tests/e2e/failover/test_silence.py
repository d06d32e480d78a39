"""A server of which nothing is heard any more: packets are lost, or it accepts and never answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
from tests.e2e.failover.conftest import MakeProxy
from tests.e2e.failover.slots import assert_all_slots_free
from tests.support.postgres import Database
from tests.support.proxy import eventually
from tests.support.rawclient import RawClient
from tests.support.relay import Relay

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
        if how == "packets are lost":
            relay.drop_packets()
        else:
            relay.black_hole()
        eventually(lambda: "UNREACHABLE" in proxy.log, timeout=60, what="the proxy's noticing")
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
