"""State that cannot travel keeps its client on the server connection for as long as it exists, and no longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually, proxy_config
from tests.support.rawclient import RawClient, bind, execute, parse

from tidegate_proxy.protocol import encode, wire

ONE_ROW = list("TDCZ")


def kinds(client: RawClient, sql: str) -> list[str]:
    """Types of the messages that answer a simple query."""
    return [kind for kind, _ in client.query(sql)]


def assert_waits_until(narrow_proxy: ProxyProcess, holder: RawClient, end: str) -> None:
    """Another client gets the only server connection after `end`, and not before."""
    with RawClient(narrow_proxy.parameters) as other:
        other.send(encode.query("SELECT 'served'"))
        # Had the other one been served in between, its backend would have been this one's.
        for _ in range(3):
            assert kinds(holder, "SELECT 1") == ONE_ROW
        other.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.socket.recv(1)
        other.socket.settimeout(20)
        holder.query(end)
        assert other.kinds_until() == "TDCZ"


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("CREATE TEMP TABLE t (a int)", "DROP TABLE t"),
        ("CREATE TABLE pg_temp.t (a int)", "DROP TABLE pg_temp.t"),
        ("SELECT 1 AS a INTO TEMP t", "DROP TABLE t"),
        ("CREATE TEMP VIEW v AS SELECT 1", "DROP VIEW v"),
        ("CREATE TEMPORARY SEQUENCE s", "DROP SEQUENCE s"),
        ("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "DROP FUNCTION pg_temp.f()"),
        ("CREATE TYPE pg_temp.e AS ENUM ('a')", "DROP TYPE pg_temp.e"),
        ("LISTEN c", "UNLISTEN c"),
        ("LISTEN c", "UNLISTEN *"),
        ("SELECT pg_advisory_lock(1)", "SELECT pg_advisory_unlock(1)"),
        ("SELECT pg_advisory_lock_shared(1, 2)", "SELECT pg_advisory_unlock_shared(1, 2)"),
        ("SELECT pg_try_advisory_lock(1)", "SELECT pg_advisory_unlock_all()"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 5)", "CLOSE c"),
        ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT", "CLOSE ALL"),
        ("PREPARE p AS SELECT 1", "DEALLOCATE p"),
        ("PREPARE p AS SELECT 1", "DEALLOCATE ALL"),
        ("SELECT nextval('seq')", "DISCARD SEQUENCES"),
        ("CREATE TEMP TABLE t (a int)", "DISCARD TEMP"),
        ("CREATE TEMP TABLE t (a int); LISTEN c; PREPARE p AS SELECT 1; SELECT pg_advisory_lock(1)", "DISCARD ALL"),
        ("BEGIN; LISTEN c; CREATE TEMP TABLE t (a int); COMMIT", "UNLISTEN c; DROP TABLE t"),
    ],
)
def test_a_pin_lasts_as_long_as_its_reason(narrow_proxy: ProxyProcess, begin: str, end: str) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        if "nextval" in begin:
            client.query("CREATE SEQUENCE seq")
        answer = client.query(begin)
        assert "E" not in [kind for kind, _ in answer], answer
        assert_waits_until(narrow_proxy, client, end)
        eventually(lambda: "pinned to its server connection" in narrow_proxy.log)
        with RawClient(narrow_proxy.parameters) as other:
            assert kinds(other, "SELECT 1") == ONE_ROW


@pytest.mark.parametrize(
    "script",
    [
        ["BEGIN", "CREATE TEMP TABLE t (a int) ON COMMIT DROP", "COMMIT"],
        ["BEGIN", "CREATE TEMP TABLE t (a int)", "ROLLBACK"],
        ["BEGIN", "LISTEN c", "ROLLBACK"],
        ["BEGIN", "SELECT pg_advisory_xact_lock(1)", "COMMIT"],
        ["BEGIN", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "ROLLBACK"],
        ["BEGIN", "SAVEPOINT s", "LISTEN c", "ROLLBACK TO s", "COMMIT"],
        ["SELECT pg_advisory_lock(1), pg_advisory_unlock(1)"],
        ["PREPARE p AS SELECT 1; EXECUTE p; DEALLOCATE p"],
        ["SELECT 'LISTEN to me; SET this'"],
        ["INSERT INTO notes VALUES ('; SET a; CREATE TEMP TABLE; pg_advisory_lock(1)')"],
        ["DO $$ BEGIN PERFORM 1; END $$"],
        ["SET work_mem TO '1234kB'", "RESET work_mem"],
    ],
)
def test_what_leaves_nothing_behind_does_not_pin(narrow_proxy: ProxyProcess, script: list[str]) -> None:
    with RawClient(narrow_proxy.parameters) as client, RawClient(narrow_proxy.parameters) as other:
        client.query("CREATE TABLE notes (note text)")
        for statement in script:
            assert "E" not in kinds(client, statement)
        assert kinds(other, "SELECT 1") == ONE_ROW
        assert "pinned" not in narrow_proxy.log


def test_a_temporary_table_is_its_clients_alone(narrow_proxy: ProxyProcess) -> None:
    with narrow_proxy.connect() as one:
        one.execute("CREATE TEMP TABLE t (a int)")
        one.execute("INSERT INTO t VALUES (1)")
        assert one.execute("SELECT a FROM t").fetchone() == (1,)
    with narrow_proxy.connect() as two, pytest.raises(psycopg.errors.UndefinedTable):
        two.execute("SELECT a FROM t")


def test_notifications_arrive_while_the_client_is_idle(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=2)
    with proxy.connect() as listener, proxy.connect() as sender:
        listener.execute("LISTEN channel")
        sender.execute("SELECT pg_notify('channel', 'hello')")
        notice = next(listener.notifies(timeout=60))
        assert (notice.channel, notice.payload) == ("channel", "hello")
        listener.execute("UNLISTEN channel")
        sender.execute("NOTIFY channel, 'nobody'")
        assert listener.execute("SELECT 1").fetchone() == (1,)
        assert list(listener.notifies(timeout=0)) == []


def test_sequences_never_tell_another_clients_value(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1)
    with proxy.connect() as one, proxy.connect() as two:
        one.execute("CREATE TABLE t (id serial PRIMARY KEY)")
        two.execute("INSERT INTO t DEFAULT VALUES")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            one.execute("SELECT lastval()")
        two.execute("INSERT INTO t DEFAULT VALUES")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            one.execute("SELECT currval('t_id_seq')", prepare=True)
        with one.transaction():
            one.execute("INSERT INTO t DEFAULT VALUES")
            assert one.execute("SELECT lastval()").fetchone() == (3,)


def test_the_first_lastval_of_all_within_a_transaction(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1)
    with proxy.connect() as one, proxy.connect() as two:
        one.execute("CREATE TABLE t (id serial PRIMARY KEY)")
        one.execute("CREATE TABLE u (id int)")
        one.execute("INSERT INTO t DEFAULT VALUES")
        two.execute("BEGIN")
        two.execute("INSERT INTO u VALUES (1)")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            two.execute("SELECT lastval()")
        two.execute("ROLLBACK")
        one.execute("INSERT INTO t DEFAULT VALUES")
        with two.transaction():
            two.execute("INSERT INTO t DEFAULT VALUES")
            assert two.execute("SELECT lastval()").fetchone() == (3,)


def test_lastval_in_a_later_transaction_than_the_insert(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=3)
    with proxy.connect() as one, proxy.connect() as two:
        one.execute("CREATE TABLE t (id serial PRIMARY KEY)")
        one.execute("INSERT INTO t DEFAULT VALUES")
        two.execute("INSERT INTO t DEFAULT VALUES")
        # Nobody can know yet that the value is wanted.
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            one.execute("SELECT lastval()")
        for first in (3, 5, 7):
            one.execute("INSERT INTO t DEFAULT VALUES")
            two.execute("INSERT INTO t DEFAULT VALUES")
            assert one.execute("SELECT lastval()").fetchone() == (first,)
            assert two.execute("SELECT currval('t_id_seq')").fetchone() == (first + 1,)
        eventually(lambda: proxy.log.count("is pinned to its server connection: sequence") == 2)


def test_nextval_and_currval_in_different_transactions(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=2)
    with proxy.connect() as one, proxy.connect() as two:
        one.execute("CREATE SEQUENCE s")
        assert one.execute("SELECT nextval('s')").fetchone() == (1,)
        assert two.execute("SELECT nextval('s')").fetchone() == (2,)
        assert one.execute("SELECT currval('s')").fetchone() == (1,)
        assert two.execute("SELECT lastval()").fetchone() == (2,)


def test_a_loaded_library_ends_with_its_server_connection(start_proxy: StartProxy, proxy: ProxyProcess) -> None:
    superuser = {"user": "postgres", "password": proxy.database.server.password}
    narrow = start_proxy(default_pool_size=1, database_settings=superuser)
    with narrow.connect() as one:
        before = one.execute("SELECT pg_backend_pid()").fetchone()
        one.execute("LOAD 'plpgsql'")
        assert one.execute("SELECT pg_backend_pid()").fetchone() == before
    with narrow.connect() as two:
        assert two.execute("SELECT pg_backend_pid()").fetchone() != before


def test_sql_deallocate_and_execute_know_protocol_level_statements(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        for client in (one, two):
            client.send(parse(b"mine", b"SELECT 7") + encode.sync())
            assert client.kinds_until() == "1Z"
        assert ("D", b"\0\x01\0\0\0\x017") in one.query("EXECUTE mine")
        assert ("C", b"DEALLOCATE\0") in one.query("DEALLOCATE mine")
        one.send(bind(b"", b"mine") + encode.sync())
        assert one.error_until()["C"] == "26000"
        two.send(bind(b"", b"mine") + execute() + encode.sync())
        assert two.kinds_until() == "2DCZ"
        one.send(parse(b"mine", b"SELECT 8") + encode.sync())
        assert one.kinds_until() == "1Z"
        one.query("BEGIN")
        one.query("SELECT 1/0")
        assert "E" in kinds(one, "DEALLOCATE mine")
        one.query("ROLLBACK")
        one.send(bind(b"", b"mine") + execute() + encode.sync())
        assert one.kinds_until() == "2DCZ"


def test_a_schema_change_invalidates_a_plan_until_it_is_prepared_anew(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("CREATE TABLE t (a int)")
        two.send(parse(b"s", b"SELECT * FROM t") + encode.sync())
        assert two.kinds_until() == "1Z"
        one.query("ALTER TABLE t ADD b int")
        two.send(bind(b"", b"s") + execute() + encode.sync())
        assert two.error_until()["M"] == "cached plan must not change result type"
        two.send(encode.close_statement(b"s") + parse(b"s", b"SELECT * FROM t") + encode.sync())
        assert two.kinds_until() == "31Z"
        two.send(bind(b"", b"s") + execute() + encode.sync())
        assert two.kinds_until() == "2CZ"


def test_pipelined_sets_are_all_carried(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, narrow_proxy.connect() as two:
        one.send(encode.query("SET work_mem TO '1234kB'") + encode.query("SET lock_timeout TO '77s'"))
        assert one.kinds_until() == one.kinds_until() == "CZ"
        assert two.execute("SHOW lock_timeout").fetchone() == ("0",)
        assert ("D", b"\0\x01\0\0\0\x061234kB") in one.query("SHOW work_mem")
        assert ("D", b"\0\x01\0\0\0\x0377s") in one.query("SHOW lock_timeout")


def test_statements_in_session_mode_keep_their_server(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=2, pool_mode="session")
    with proxy.connect() as one, proxy.connect() as two:
        assert one.pgconn.parameter_status(b"tidegate.pool_mode") == b"session"
        pids = [conn.execute("SELECT pg_backend_pid()").fetchone() for conn in (one, two, one, two)]
        assert pids[:2] == pids[2:]
        assert pids[0] != pids[1]
        one.execute("SET work_mem TO '1234kB'")
        with RawClient(proxy.parameters) as three:
            three.send(encode.query("SHOW work_mem"))
            one.close()
            assert ("D", b"\0\x01\0\0\0\x034MB") in three.read_until()


def test_statement_mode_refuses_transaction_blocks(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, pool_mode="statement")
    with proxy.connect() as one, proxy.connect() as two:
        assert one.execute("SELECT 1").fetchone() == two.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.Error, match="transaction blocks are not allowed in statement pooling mode"):
            one.execute("BEGIN")
        assert two.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    ("general", "of_database", "of_user", "expected"),
    [
        ("session", None, None, "session"),
        ("transaction", "session", None, "session"),
        ("transaction", None, "session", "session"),
        ("session", "session", "transaction", "transaction"),
        ("transaction", "transaction", "session", "session"),
        ("session", "transaction", "statement", "statement"),
    ],
)
def test_pool_mode_of_a_user_comes_before_that_of_a_database_and_that_before_the_general_one(
    tmp_path: Path, database: Database, general: str, of_database: str | None, of_user: str | None, expected: str
) -> None:
    database_settings = {"pool_mode": of_database} if of_database else {}
    config = proxy_config(database, {"default_pool_size": 2, "pool_mode": general}, database_settings)
    # The user's table is the last one.
    config += f'pool_mode = "{of_user}"\n' if of_user else ""
    proxy = ProxyProcess(tmp_path, database, config)
    try:
        proxy.wait_until_listening()
        with proxy.connect() as one, proxy.connect() as two:
            assert one.pgconn.parameter_status(b"tidegate.pool_mode") == expected.encode()
            pids = [conn.execute("SELECT pg_backend_pid()").fetchone() for conn in (one, two)]
            assert (pids[0] != pids[1]) == (expected == "session")
            if expected == "statement":
                with pytest.raises(psycopg.Error, match="not allowed in statement pooling mode"):
                    one.execute("BEGIN")
            else:
                one.execute("BEGIN")
                one.execute("ROLLBACK")
    finally:
        proxy.close()


def test_late_copy_data_after_a_failed_copy(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("CREATE TABLE t (a int)")
        one.send(encode.query("COPY t FROM STDIN"))
        one.kinds_until("G")
        one.send(encode.message(wire.COPY_DATA, b"wrong\n"))
        assert one.kinds_until() == "EZ"
        assert kinds(two, "SELECT 1") == ONE_ROW
        one.send(encode.message(wire.COPY_DATA, b"more\n") + encode.copy_fail("late") + encode.query("SELECT 1"))
        assert one.kinds_until() == "TDCZ"
        assert kinds(two, "SELECT 1") == ONE_ROW


def test_asyncpgs_reset_query_unpins(narrow_proxy: ProxyProcess) -> None:
    reset = "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;"
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("LISTEN c; SELECT pg_advisory_lock(1)")
        assert "E" not in kinds(one, reset)
        assert kinds(two, "SELECT 1") == ONE_ROW


def test_a_pin_outlives_other_transactions_of_its_client(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=2)

    def backend(conn: psycopg.Connection[Any]) -> Any:
        return conn.execute("SELECT pg_backend_pid()").fetchone()

    with proxy.connect() as one, proxy.connect() as two:
        one.execute("CREATE TEMP TABLE t (a int)")
        pinned = backend(one)
        for _ in range(5):
            assert backend(two) != pinned
            assert backend(one) == pinned
            one.execute("INSERT INTO t VALUES (1)")
        one.execute("DROP TABLE t")
        eventually(lambda: "no longer pinned" in proxy.log)


def test_a_check_that_is_cancelled_leaves_nothing_to_others(narrow_proxy: ProxyProcess) -> None:
    # The cancel request may hit the proxy's own question behind the statement; whatever it hits, the lock is kept.
    with RawClient(narrow_proxy.parameters) as one:
        for _ in range(20):
            one.send(encode.query("SELECT pg_advisory_lock(1)"))
            with RawClient(narrow_proxy.parameters, login=False) as canceller:
                canceller.send(encode.cancel_request(one.pid, one.key))
                assert canceller.is_closed()
            if "E" in one.kinds_until():
                continue
            assert_waits_until(narrow_proxy, one, "SELECT pg_advisory_unlock_all()")


def test_a_question_that_is_cancelled_is_asked_again(narrow_proxy: ProxyProcess) -> None:
    with (
        RawClient(narrow_proxy.parameters) as one,
        RawClient(narrow_proxy.parameters) as two,
        narrow_proxy.database.server.connect(dbname=narrow_proxy.database.name) as locking,
        narrow_proxy.database.server.connect() as admin,
    ):
        with locking.transaction():
            # The question about temporary objects has to wait.
            locking.execute("LOCK TABLE pg_catalog.pg_depend")
            one.query("SET work_mem TO '1234kB'; SELECT 1 AS temp")
            waiting = (
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = %s"
            )
            eventually(lambda: admin.execute(waiting, [narrow_proxy.database.user]).fetchall() == [(True,)])
        for client, work_mem in ((two, b"4MB"), (one, b"1234kB")):
            assert [body[6:] for kind, body in client.query("SHOW work_mem") if kind == "D"] == [work_mem]
    assert "pinned" not in narrow_proxy.log


def test_notifications_between_other_answers_all_arrive(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=2)
    with RawClient(proxy.parameters) as listener, RawClient(proxy.parameters) as sender:
        listener.query("LISTEN c")
        arrived = 0
        for n in range(200):
            sender.send(encode.query(f"NOTIFY c, '{n}'"))
            arrived += sum(kind == "A" for kind, _ in listener.query("SELECT 1"))
            sender.read_until()
        while arrived < 200:
            assert listener.read()[0] == "A"
            arrived += 1


def test_temporary_objects_of_every_kind_pin(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one:
        one.query('CREATE COLLATION pg_temp.c FROM "C"')
        assert_waits_until(narrow_proxy, one, "DROP COLLATION pg_temp.c")


def test_a_statement_that_is_too_long_to_be_carried(narrow_proxy: ProxyProcess) -> None:
    long = b"SELECT '" + b"x" * 1_200_000 + b"'"
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as other:
        one.send(parse(b"", long) + bind() + execute() + encode.sync())
        assert one.kinds_until() == "12DCZ"
        one.query("DISCARD ALL")
        assert kinds(other, "SELECT 1") == ONE_ROW


def test_statement_mode_frees_the_server_connection_at_once(start_proxy: StartProxy) -> None:
    proxy = start_proxy(
        default_pool_size=1, pool_mode="statement", connection_borrow_timeout=3, server_reset_timeout=60
    )
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        one.send(encode.query("BEGIN"))
        assert one.error_until("E")["C"] == "0A000"
        assert kinds(two, "SELECT 1") == ONE_ROW


def test_what_is_deallocated_out_of_sight_is_prepared_anew(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'deallocate all'; END $$")
        two.send(parse(b"s", b"SELECT 1") + encode.sync())
        assert two.kinds_until() == "1Z"
        one.query("SELECT f()")
        two.send(bind(b"", b"s") + execute() + encode.sync())
        assert two.error_until()["C"] == "26000"
        two.send(bind(b"", b"s") + execute() + encode.sync())
        assert two.kinds_until() == "2DCZ"


def test_a_string_that_goes_on_after_a_line_break_hides_nothing(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        hidden = "SELECT E'a' -- comment\n'\\' , '; SET work_mem TO 1234 --'"
        assert "E" not in kinds(one, hidden)
        assert ("D", b"\0\x01\0\0\0\x061234kB") in one.query("SHOW work_mem")
        assert ("D", b"\0\x01\0\0\0\x034MB") in two.query("SHOW work_mem")
