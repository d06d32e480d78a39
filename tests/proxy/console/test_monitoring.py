"""Monitoring made for PgBouncer reads the console: what it sends, and what it needs of the answers."""

from __future__ import annotations

from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy

# What each reads, from its documentation or its list of metrics.
# Version 2.1.2, whose package requires psycopg2 2.8.5 and prometheus_client 0.8.0 and no other, so that it cannot be
# installed beside what the proxy needs: collector.py. It leaves out what is absent, as reserve_pool since PgBouncer
# 1.24, and takes these of SHOW CONFIG for integers.
EXPORTED_SETTINGS = {"max_client_conn", "max_user_connections"}
PROMETHEUS_PGBOUNCER_EXPORTER = {
    "SHOW STATS": "database total_xact_count total_query_count total_xact_time total_wait_time total_query_time "
    "total_received total_sent",
    "SHOW POOLS": "database user cl_active cl_waiting sv_active sv_idle sv_used sv_tested sv_login maxwait maxwait_us",
    "SHOW DATABASES": "name database pool_size current_connections max_connections",
    "SHOW CONFIG": "key value",
}
DATADOG = {
    "SHOW STATS": "database total_xact_count total_query_count total_received total_sent total_xact_time "
    "total_query_time total_wait_time avg_xact_count avg_recv avg_sent avg_xact_time avg_query_time",
    "SHOW POOLS": "database user cl_active cl_waiting sv_active sv_idle sv_used sv_tested sv_login maxwait maxwait_us",
    "SHOW DATABASES": "name database pool_size max_connections current_connections",
    "SHOW CONFIG": "key value",
    "SHOW VERSION": "version",
    "SHOW CLIENTS": "database user state addr application_name connect_time request_time wait wait_us",
    "SHOW SERVERS": "database user state addr application_name connect_time request_time",
}
TELEGRAF = {
    "SHOW STATS": "database total_received avg_recv avg_query_time",
    "SHOW POOLS": "database user pool_mode cl_active maxwait",
    "SHOW LISTS": "list items",
    "SHOW DATABASES": "name host port force_user pool_mode reserve_pool_size paused disabled",
}


@pytest.fixture
def unused(start_proxy: StartProxy, database: Database) -> ProxyProcess:
    """A proxy that nobody has used yet."""
    return start_proxy(stats_users=[database.user])


@pytest.mark.parametrize(
    "queries", [PROMETHEUS_PGBOUNCER_EXPORTER, DATADOG, TELEGRAF], ids=["prometheus", "datadog", "telegraf"]
)
def test_it_finds_the_columns_that_it_reads_with_psycopg2(unused: ProxyProcess, queries: dict[str, str]) -> None:
    parameters = unused.parameters
    conn: Any = psycopg2.connect(
        host=parameters["host"],
        port=parameters["port"],
        user=parameters["user"],
        password=parameters["password"],
        dbname="pgbouncer",
        cursor_factory=psycopg2.extras.DictCursor,
    )
    try:
        conn.set_session(autocommit=True)
        for query, columns in queries.items():
            with conn.cursor() as cursor:
                cursor.execute(query)
                names = [column.name for column in cursor.description]
                assert set(columns.split()) <= set(names), query
                rows = cursor.fetchall()
                # Some take an answer without rows for a failure.
                assert rows or query == "SHOW SERVERS"
                for row in rows:
                    if query == "SHOW STATS":
                        assert all(int(row[name]) >= 0 for name in names[1:])
                if query == "SHOW CONFIG":
                    settings = {row["key"]: row["value"] for row in rows}
                    assert all(int(settings[key]) >= 0 for key in EXPORTED_SETTINGS)
    finally:
        conn.close()
