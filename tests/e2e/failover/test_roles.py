"""Writers that turn read only, readers under a second name, and instances that Aurora names."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.e2e.failover.conftest import NO_CONTROL, MakeProxy, Pair
from tests.proxy.console.helpers import show
from tests.proxy.console.test_events import events
from tests.proxy.metrics.test_served import samples
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually, proxy_config

from tidegate_load.postgres import EmbeddedPostgres


def is_reader(proxy: ProxyProcess, dbname: str) -> bool:
    with proxy.connect(dbname=dbname) as conn:
        row = conn.execute("SELECT pg_is_in_recovery()").fetchone()
        assert row is not None
        return bool(row[0])


def test_a_writer_that_turns_read_only_is_left_and_writes_wait(lone_server: Database, proxy_for: MakeProxy) -> None:
    server = lone_server.server
    # The control connection would find out first.
    proxy = proxy_for(lone_server, {}, target_check_interval=3600)
    with proxy.connect() as conn, proxy.connect() as other:
        conn.execute("INSERT INTO written VALUES ('before', 1)")
        old = proxy.server_pids()
        server.settings["default_transaction_read_only"] = "on"
        server.reload()

        def refused() -> bool:
            try:
                conn.execute("INSERT INTO written VALUES ('between', 1)")
            except psycopg.errors.ReadOnlySqlTransaction:
                return True
            return False

        eventually(refused, what="25006")
        eventually(lambda: "looking for the new one" in proxy.log, what="the proxy's noticing")
        eventually(lambda: not proxy.server_pids() & old, what="the end of the old server connections")
        with other.cursor() as cursor:
            with pytest.raises(psycopg.OperationalError, match="there is no writer"):
                # By the time that this gives up, nobody has been given the server.
                ProxyPatience(proxy_for, lone_server).insert()
            server.settings["default_transaction_read_only"] = "off"
            server.reload()
            cursor.execute("INSERT INTO written VALUES ('after', 1)")


def test_no_connection_that_was_refused_a_write_is_lent_again_before_the_server_has_said_why(
    lone_server: Database, proxy_for: MakeProxy
) -> None:
    server = lone_server.server
    proxy = proxy_for(lone_server, {}, target_check_interval=3600, target_check_timeout=60)
    with proxy.connect() as one, proxy.connect() as other:
        for conn in (one, other):
            conn.execute("BEGIN")
            conn.execute("SELECT 1")
        old = proxy.server_pids()
        assert len(old) == 2
        with server.connect() as admin:
            query = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'tidegate %'"
            (control,) = eventually(admin.execute(query).fetchall, what="the control connection")
        # It can't say for now what the server has become.
        os.kill(control[0], signal.SIGSTOP)
        try:
            for conn in (one, other):
                conn.execute("SET TRANSACTION READ ONLY")
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                    conn.execute("INSERT INTO written VALUES ('refused', 1)")
                conn.execute("ROLLBACK")
            eventually(lambda: not proxy.server_pids() & old, what="the end of both server connections")
        finally:
            os.kill(control[0], signal.SIGCONT)
        one.execute("INSERT INTO written VALUES ('after', 1)")


class ProxyPatience:
    """Another proxy in front of the same server, whose clients wait for seconds only."""

    def __init__(self, proxy_for: MakeProxy, database: Database) -> None:
        self._proxy = proxy_for(database, {}, connection_borrow_timeout=3)

    def insert(self) -> None:
        """Log in and write."""
        with self._proxy.connect() as conn:
            conn.execute("INSERT INTO written VALUES ('never', 1)")


def test_a_read_only_transaction_of_a_client_changes_nothing_for_others(
    lone_server: Database, proxy_for: MakeProxy
) -> None:
    proxy = proxy_for(lone_server, {})
    with lone_server.server.connect() as admin:
        admin.execute("ALTER ROLE app SET default_transaction_read_only TO on")
    with proxy.connect() as conn, proxy.connect() as other:
        for _ in range(5):
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                conn.execute("INSERT INTO written VALUES ('refused', 1)")
            other.execute("BEGIN READ WRITE")
            other.execute("INSERT INTO written VALUES ('fine', 1)")
            other.execute("COMMIT")
    assert "READ_ONLY" not in proxy.log


def test_a_server_whose_control_connection_fails_says_itself_whether_it_takes_writes(
    lone_server: Database, proxy_for: MakeProxy
) -> None:
    """A standby of PostgreSQL 13 does not say it by itself."""
    server = lone_server.server
    with server.connect(dbname=lone_server.name) as admin:
        admin.execute(NO_CONTROL)
    server.settings["default_transaction_read_only"] = "on"
    server.reload()
    eventually(lambda: is_read_only(server), what="the server's new setting")
    proxy = proxy_for(lone_server, {}, connection_borrow_timeout=3)
    with pytest.raises(psycopg.OperationalError, match="takes no writes"):
        proxy.connect()
    server.settings["default_transaction_read_only"] = "off"
    server.reload()

    def writes() -> bool:
        with contextlib.suppress(psycopg.OperationalError), proxy.connect() as conn:
            return conn.execute("INSERT INTO written VALUES ('after', 1)").rowcount == 1
        return False

    eventually(writes, timeout=60, what="a write: it is asked again after a while")
    assert "AVAILABLE, READ_WRITE" not in proxy.log


def is_read_only(server: EmbeddedPostgres) -> bool:
    with server.connect() as conn:
        return conn.execute("SHOW default_transaction_read_only").fetchone() == ("on",)


def test_a_lost_primary_gets_no_writes_because_its_control_connection_fails(pair: Pair, proxy_for: MakeProxy) -> None:
    settings = {"host": pair.primary.host, "endpoints": [pair.standby.host]}
    proxy = proxy_for(pair.database, settings)
    with proxy.connect() as conn:
        conn.execute("INSERT INTO written VALUES ('before', 1)")
        pair.primary.kill()
        pair.standby.promote()
        conn.execute("INSERT INTO written VALUES ('promoted', 1)")
        pair.primary.settings["synchronous_standby_names"] = ""
        pair.primary.start()
        with pair.primary.connect(dbname="app") as admin:
            admin.execute(NO_CONTROL)
        failed = f"target {pair.primary.host}:{pair.primary.port}: UNAVAILABLE, CONNECTION_FAILED"
        eventually(lambda: failed in proxy.log, what="the failure of the control connection")
        pair.standby.stop()
        proxy.reload(connection_borrow_timeout=3)
        with pytest.raises(psycopg.Error):
            conn.execute("INSERT INTO written VALUES ('lost', 1)")
    with pair.primary.connect(dbname="app") as admin:
        assert admin.execute("SELECT client FROM written").fetchall() == [("before",)]


@pytest.mark.parametrize("fallback", ["writer", "refuse"])
def test_readers_have_a_name_of_their_own(pair: Pair, tmp_path: Path, fallback: str) -> None:
    config = proxy_config(pair.database, None, {"endpoints": [pair.standby.host]})
    config += f'[databases.app_ro]\nreaders_of = "app"\nreader_fallback = "{fallback}"\n'
    proxy = ProxyProcess(tmp_path, pair.database, config)
    try:
        proxy.wait_until_listening()
        assert is_reader(proxy, "app_ro")
        assert not is_reader(proxy, "app")
        pair.standby.stop()
        eventually(lambda: "UNREACHABLE" in proxy.log, what="the proxy's noticing")
        if fallback == "writer":
            assert not is_reader(proxy, "app_ro")
        else:
            proxy.reload(connection_borrow_timeout=2)
            with pytest.raises(psycopg.OperationalError, match="Connection refused"):
                is_reader(proxy, "app_ro")
        pair.standby.start()
        eventually(lambda: reads(proxy), what="the reader's return")
    finally:
        proxy.close()


def reads(proxy: ProxyProcess) -> bool:
    try:
        return is_reader(proxy, "app_ro")
    except psycopg.OperationalError:
        return False


# The columns of Aurora's function, in its order ("aurora_replica_status" in the Aurora user guide).
AURORA = """
CREATE FUNCTION {schema}.aurora_replica_status(
    OUT server_id text, OUT session_id text, OUT durable_lsn bigint, OUT highest_lsn_rcvd bigint,
    OUT current_read_lsn bigint, OUT cur_replay_latency_in_usec bigint, OUT active_txns bigint, OUT is_current boolean,
    OUT last_transport_error integer, OUT last_error_timestamp timestamptz, OUT last_update_timestamp timestamptz,
    OUT feedback_xmin bigint, OUT feedback_epoch bigint, OUT replica_lag_in_msec bigint,
    OUT log_stream_speed_in_kib_per_second real, OUT log_buffer_sequence_number bigint,
    OUT oldest_read_view_trx_id bigint, OUT oldest_read_view_lsn bigint, OUT pending_read_ios bigint,
    OUT read_ios bigint, OUT iops integer, OUT cpu real
) RETURNS SETOF record LANGUAGE sql AS $$
    SELECT id, session, 1::bigint, 1::bigint, 1::bigint, 0::bigint, 0::bigint, true, 0, null::timestamptz, at,
        0::bigint, 0::bigint, 0::bigint, 0::real, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0, 0::real
    FROM (VALUES ('1', 'MASTER_SESSION_ID', null::timestamptz), ('2', 'b7e5', pg_catalog.now()),
        ('9', 'gone', pg_catalog.now() - interval '1 day'), ('evil.example.com', 'x', null)) AS i (id, session, at)
$$
"""


def aurora(pair: Pair, schema: str) -> dict[str, Any]:
    with pair.primary.connect(dbname="app") as conn:
        conn.execute(AURORA.format(schema=schema))
    return {"host": pair.primary.host, "aurora_instances": "127.0.0.?"}


def test_auroras_instances_are_found_and_followed(pair: Pair, proxy_for: MakeProxy) -> None:
    proxy = proxy_for(pair.database, aurora(pair, "pg_catalog"))
    with proxy.connect() as conn:
        conn.execute("INSERT INTO written VALUES ('before', 1)")
        port = pair.primary.port
        eventually(lambda: f"has the instances 127.0.0.1:{port}, 127.0.0.2:{port}\n" in proxy.log, what="the instances")
        eventually(lambda: f"target 127.0.0.2:{port}: AVAILABLE, READ_ONLY" in proxy.log, what="the reader")
        pair.primary.kill()
        pair.standby.promote()
        conn.execute("INSERT INTO written VALUES ('after', 1)")
    with pair.standby.connect(dbname="app") as conn:
        assert conn.execute("SELECT count(*) FROM written").fetchone() == (2,)


def test_only_auroras_own_function_is_believed(pair: Pair, proxy_for: MakeProxy) -> None:
    """Anybody may create one of that name in a schema of his, and would be sent the proxy's password."""
    proxy = proxy_for(pair.database, aurora(pair, "public"))
    with proxy.connect() as conn:
        conn.execute("SET search_path TO public; SELECT 1")
        conn.execute("SELECT pg_sleep(1.5)")
    assert "instances" not in proxy.log


def test_connections_are_counted_where_they_lead_to(pair: Pair, tmp_path: Path) -> None:
    settings = {"connection_borrow_timeout": 30, "http_port": 0, "admin_users": ["app"], "log_format": "json"}
    config = proxy_config(pair.database, settings, {"endpoints": [pair.standby.host]})
    config += '[databases.app_ro]\nreaders_of = "app"\n'
    one, two = (f"{server.host}:{server.port}" for server in (pair.primary, pair.standby))
    proxy = ProxyProcess(tmp_path, pair.database, config)

    def counted(name: str) -> dict[tuple[str, str], float]:
        """By database and target, what is not 0."""
        return {
            (dict(labels)["database"], dict(labels)["target"]): value
            for (found, labels), value in samples(proxy).items()
            if found == f"tidegate_{name}" and value
        }

    try:
        proxy.wait_until_listening()
        with proxy.connect(dbname="app_ro") as reader, proxy.connect() as writer:
            reader.execute("SELECT 1")
            writer.execute("SELECT 1")
            assert counted("database_connections") == {("app", one): 1, ("app_ro", two): 1}
            assert counted("database_connections_setup_succeeded_total") == {("app", one): 1, ("app_ro", two): 1}
            targets = {row["host"]: row["connections"] for row in show(proxy, "TARGETS")}
            assert targets == {pair.primary.host: 1, pair.standby.host: 1}
            before = counted("query_database_response_latency_seconds_count")[("app", one)]
            pair.primary.kill()
            pair.standby.promote()
            writer.execute("INSERT INTO written VALUES ('after', 1)")
            assert counted("database_connections")[("app", two)] == 1
            latencies = counted("query_database_response_latency_seconds_count")
            assert latencies[("app", one)] == before
            assert latencies[("app", two)] == 1
        (lost,) = events(proxy, "writer_lost")
        (failover,) = events(proxy, "failover")
        assert (lost["target"], lost["level"]) == (one, "warning")
        assert (failover["target"], failover["before"], failover["databases"]) == (two, one, ["app", "app_ro"])
        assert failover["seconds"] >= 0
        assert [record["target"] for record in events(proxy, "target_unavailable")] == [one]
    finally:
        proxy.close()
