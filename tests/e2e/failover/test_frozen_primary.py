"""A primary whose processes hang while its machine still acknowledges every packet."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest
from tests.e2e.failover.conftest import MakeProxy, Pair
from tests.support.dns import DNSServer
from tests.support.proxy import eventually
from tests.support.rawclient import RawClient

from tidegate_load.postgres import EmbeddedPostgres
from tidegate_proxy.protocol import encode


@contextlib.contextmanager
def frozen(server: EmbeddedPostgres) -> Iterator[None]:
    """Stop all processes of a server where they are, as a disk does that does not answer."""
    os.kill(server.pid, signal.SIGSTOP)
    processes = [server.pid, *server.backend_pids()]
    for pid in processes[1:]:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("known_by", ["a list", "a name"])
def test_what_waits_for_a_frozen_primary_ends_when_there_is_another_writer(
    pair: Pair, proxy_for: MakeProxy, dns: DNSServer, known_by: str
) -> None:
    dns.names["db.example.com"] = pair.primary.host
    listed = {"host": pair.primary.host, "endpoints": [pair.standby.host]}
    proxy = proxy_for(
        pair.database,
        listed if known_by == "a list" else {"host": "db.example.com"},
        default_pool_size=1,
        target_check_timeout=1,
        connection_borrow_timeout=120,
        left_writer_timeout=0,
        dns_servers=[dns.address],
    )
    with RawClient(proxy.parameters, timeout=60) as waiting, proxy.connect() as conn:
        conn.execute("INSERT INTO written VALUES ('before', 1)")
        waiting.send(encode.query("SELECT pg_sleep(3600)"))
        eventually(lambda: asleep(pair.primary), what="the query in flight")
        with frozen(pair.primary):
            eventually(lambda: "UNREACHABLE" in proxy.log, timeout=60, what="the proxy's noticing")
            pair.standby.promote()
            dns.names["db.example.com"] = pair.standby.host
            # The pool has one place, and the query in flight has it.
            conn.execute("INSERT INTO written VALUES ('promoted', 1)")
            error = waiting.error_until()
            assert error["C"] == "08006"
            # Its client goes on, too.
            assert waiting.query("SELECT 1")[-1][0] == "Z"
    with pair.standby.connect(dbname="app") as admin:
        assert admin.execute("SELECT count(*) FROM written").fetchone() == (2,)


def asleep(server: EmbeddedPostgres) -> bool:
    """Whether the query runs."""
    with server.connect() as admin:
        query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%%' AND state = 'active'"
        return admin.execute(query, []).fetchone() == (1,)
