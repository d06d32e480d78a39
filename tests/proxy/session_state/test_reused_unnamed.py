"""Statements that come without a name again and again get one: the server parses them once, and nobody notices."""

from __future__ import annotations

import pytest
from tests.support.proxy import ProxyProcess, StartProxy
from tests.support.rawclient import RawClient, bind, execute, parse

from tidegate_proxy.protocol import encode

SQL = b"SELECT 7"
SYNC = encode.sync()


def ran(sql: bytes) -> bytes:
    return parse(b"", sql) + bind() + execute()


def answers(client: RawClient, *requests: bytes, readies: int = 1) -> str:
    """Kinds of the messages that come for all this, sent at once, request by request."""
    client.send(b"".join(requests))
    return " ".join(client.kinds_until() for _ in range(readies))


def run(client: RawClient, sql: bytes, value: int | None = None) -> None:
    client.send(ran(sql) + SYNC)
    messages = client.read_until()
    assert "".join(kind for kind, _ in messages) == ("12DCZ" if value is not None else "12CZ")
    if value is not None:
        assert int(messages[2][1][6:]) == value


def prepared(proxy: ProxyProcess) -> list[str]:
    """The texts of all statements on the one server connection."""
    with proxy.connect(autocommit=True, prepare_threshold=None) as conn:
        # By the simple protocol, which prepares nothing.
        result = conn.pgconn.exec_(b"SELECT statement FROM pg_prepared_statements WHERE name LIKE 'tidegate\\_%'")
        return [(result.get_value(n, 0) or b"").decode() for n in range(result.ntuples)]


def test_one_that_has_come_often_enough_is_prepared_once_for_all_clients(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, reuse_unnamed_statements_after=3)
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        for client in (one, two, one):
            run(client, SQL, 7)
        assert prepared(proxy) == []
        for client in (two, one, two):
            run(client, SQL, 7)
        assert prepared(proxy) == ["SELECT 7"]


def test_none_is_by_default(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one:
        for _ in range(20):
            run(one, SQL, 7)
    assert prepared(narrow_proxy) == []


def test_only_queries_are(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, reuse_unnamed_statements_after=1)
    with RawClient(proxy.parameters) as one:
        for _ in range(3):
            for sql in (b"BEGIN", b"SELECT 8", b"COMMIT"):
                run(one, sql, 8 if sql == b"SELECT 8" else None)
    assert prepared(proxy) == ["SELECT 8"]


def test_it_is_bound_on_whatever_server_connection(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=2, reuse_unnamed_statements_after=1)
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        run(one, SQL, 7)
        run(one, SQL, 7)
        # This one's server connection was the only one until now, and is taken.
        two.query("BEGIN")
        one.send(bind() + execute() + SYNC)
        assert one.kinds_until() == "2DCZ"
        two.query("COMMIT")


def test_a_constant_is_read_under_each_clients_own_parameters(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, reuse_unnamed_statements_after=1)
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        one.query("SET datestyle TO 'ISO, DMY'")
        two.query("SET datestyle TO 'ISO, MDY'")
        for _ in range(3):
            run(one, b"SELECT extract(day FROM date '01/02/2003')", 1)
            run(two, b"SELECT extract(day FROM date '01/02/2003')", 2)


def test_a_pipeline_that_fails_around_it_leaves_it_usable(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, reuse_unnamed_statements_after=1)
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        run(one, SQL, 7)
        sent = [ran(sql) + SYNC for sql in (b"BEGIN", b"SELECT 1/0", SQL, b"ROLLBACK", SQL)]
        assert answers(one, *sent, readies=5) == "12CZ 1EZ EZ 12CZ 12DCZ"
        for client in (one, two):
            run(client, SQL, 7)


def test_one_that_is_skipped_behind_itself_leaves_it_usable(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, reuse_unnamed_statements_after=1)
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        run(one, SQL, 7)
        assert answers(one, ran(SQL), SYNC, ran(b"SELECT 1/0"), ran(SQL), SYNC, readies=2) == "12DCZ 1EZ"
        for client in (one, two):
            run(client, SQL, 7)


@pytest.mark.parametrize("after", [0, 1])
def test_the_latest_unnamed_statement_is_the_one_that_is_bound(start_proxy: StartProxy, after: int) -> None:
    """One that was refused takes nothing back that came behind it."""
    proxy = start_proxy(default_pool_size=1, reuse_unnamed_statements_after=after)
    for parameters in (proxy.database.parameters, proxy.parameters):
        with RawClient(parameters) as one:
            for _ in range(3):
                run(one, SQL, 7)
                refused, latest = parse(b"", b"SELECT nonsense") + SYNC, parse(b"", b"SELECT 8") + SYNC
                assert answers(one, refused, latest, readies=2) == "EZ 1Z"
                one.send(bind() + execute() + SYNC)
                assert ("D", b"\0\x01\0\0\0\x018") in one.read_until()


def test_what_is_today_is_asked_each_time(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, reuse_unnamed_statements_after=1)
    with RawClient(proxy.parameters) as one:
        for _ in range(3):
            run(one, b"SELECT 9 WHERE date 'today' < 'Tomorrow'", 9)
            run(one, b"SELECT 10 WHERE now () > '2020-01-01'", 10)
    assert prepared(proxy) == ["SELECT 10 WHERE now () > '2020-01-01'"]


def test_a_session_of_ones_own_reads_each_text_anew(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, pool_mode="session", reuse_unnamed_statements_after=1)
    with RawClient(proxy.parameters) as one:
        for style, day in (("DMY", 1), ("MDY", 2), ("DMY", 1)):
            one.query(f"SET datestyle TO 'ISO, {style}'")
            for _ in range(3):
                run(one, b"SELECT extract(day FROM date '01/02/2003')", day)


def test_a_transaction_sees_what_it_has_altered_itself(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, reuse_unnamed_statements_after=1)
    with RawClient(proxy.parameters) as one:
        one.query("CREATE TABLE t AS SELECT 7 AS a")
        for _ in range(3):
            run(one, b"SELECT * FROM t", 7)
        one.query("BEGIN")
        run(one, b"SELECT * FROM t", 7)
        one.query("ALTER TABLE t ADD b int")
        assert answers(one, ran(b"SELECT * FROM t"), SYNC) == "12DCZ"
        one.query("COMMIT")
        for _ in range(3):
            assert answers(one, ran(b"SELECT * FROM t"), SYNC) == "12DCZ"
