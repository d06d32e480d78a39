"""Transaction pooling: clients share one server connection, and each protocol does what PostgreSQL itself would."""

from __future__ import annotations

import psycopg
import pytest
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually
from tests.support.rawclient import RawClient, bind, describe, execute, parse

from tidegate_proxy.protocol import encode, wire


def backend(conn: psycopg.Connection[tuple[object, ...]]) -> object:
    """The server process that answers right now."""
    row = conn.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return row[0]


def test_two_clients_share_one_server_connection(narrow_proxy: ProxyProcess) -> None:
    with narrow_proxy.connect() as one, narrow_proxy.connect() as two:
        assert backend(one) == backend(two)
        assert len(narrow_proxy.server_pids()) == 1


def test_a_transaction_keeps_its_server_connection_from_others(narrow_proxy: ProxyProcess) -> None:
    with narrow_proxy.connect(autocommit=False) as one, RawClient(narrow_proxy.parameters) as two:
        one.execute("CREATE TABLE t (a int)")
        two.send(encode.query("SELECT count(*) FROM t"))
        one.execute("INSERT INTO t VALUES (1)")
        one.commit()
        assert ("D", b"\0\x01\0\0\0\x011") in two.read_until()


def test_a_client_is_told_that_this_is_a_proxy(narrow_proxy: ProxyProcess) -> None:
    with narrow_proxy.connect() as conn:
        assert conn.pgconn.parameter_status(b"tidegate.pool_mode") == b"transaction"
        assert conn.pgconn.parameter_status(b"tidegate.version")
        assert conn.pgconn.parameter_status(b"server_version")


def test_several_statements_in_one_query(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        client.send(encode.query("SELECT 1; SELECT 2; SELECT 1/(random()*0)::int; SELECT 3"))
        assert client.kinds_until() == "TDCTDCTEZ"
        client.send(encode.query("BEGIN; SELECT 1; COMMIT; SELECT 2"))
        assert client.kinds_until() == "CTDCCTDCZ"


def test_an_empty_query(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        client.send(encode.query(""))
        assert client.kinds_until() == "IZ"


def test_pipelined_syncs_are_answered_one_by_one(narrow_proxy: ProxyProcess) -> None:
    one = parse(b"", b"SELECT 1") + bind() + execute() + encode.sync()
    with RawClient(narrow_proxy.parameters) as client:
        client.send(one * 50)
        assert [client.kinds_until() for _ in range(50)] == ["12DCZ"] * 50


def test_an_error_in_a_pipeline_skips_to_the_next_sync_only(narrow_proxy: ProxyProcess) -> None:
    good = parse(b"", b"SELECT 1") + bind() + execute()
    bad = parse(b"", b"SELECT 1/(random()*0)::int") + bind() + execute()
    with RawClient(narrow_proxy.parameters) as client:
        client.send(bad + good + encode.sync() + good + encode.sync())
        assert client.kinds_until() == "12EZ"
        assert client.kinds_until() == "12DCZ"


def test_flush_brings_answers_before_sync(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        client.send(parse(b"", b"SELECT 1") + encode.flush())
        assert client.kinds_until("1") == "1"
        client.send(bind() + execute() + encode.flush())
        assert client.kinds_until("C") == "2DC"
        client.send(encode.sync())
        assert client.kinds_until() == "Z"


def test_a_server_connection_is_held_until_the_sync(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.send(parse(b"", b"CREATE TABLE t (a int)") + bind() + execute() + encode.flush())
        assert one.kinds_until("C") == "12C"
        two.send(encode.query("SELECT count(*) FROM t"))
        one.send(encode.sync())
        assert one.kinds_until() == "Z"
        assert two.kinds_until() == "TDCZ"


def test_a_portal_suspended_by_a_row_limit_goes_on(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        client.query("BEGIN")
        client.send(parse(b"", b"SELECT generate_series(1, 5)") + bind(b"p") + execute(b"p", 2) + encode.sync())
        assert client.kinds_until() == "12DDsZ"
        client.send(execute(b"p", 2) + encode.sync())
        assert client.kinds_until() == "DDsZ"
        client.send(execute(b"p", 2) + encode.sync())
        assert client.kinds_until() == "DCZ"
        client.query("COMMIT")


def test_a_function_call(narrow_proxy: ProxyProcess, database: Database) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        rows = client.query("SELECT oid FROM pg_proc WHERE proname = 'pg_backend_pid'")
        oid = int(next(body for kind, body in rows if kind == "D")[6:])
        client.send(encode.message(wire.FUNCTION_CALL, oid.to_bytes(4, "big") + b"\0\0" + b"\0\0" + b"\0\0"))
        assert client.kinds_until() == "VZ"


@pytest.mark.parametrize("extended", [False, True])
def test_copy_in_and_out(narrow_proxy: ProxyProcess, extended: bool) -> None:
    rows = [(n, "x" * (n % 97)) for n in range(5000)]
    with narrow_proxy.connect() as conn, narrow_proxy.connect() as other:
        conn.execute("CREATE TABLE t (n int, s text)")
        with conn.cursor() as cursor:
            options = "(FORMAT binary)" if extended else ""
            with cursor.copy(f"COPY t FROM STDIN {options}") as copy:
                if extended:
                    copy.set_types(["int4", "text"])
                for row in rows:
                    copy.write_row(row)
            assert other.execute("SELECT count(*) FROM t").fetchone() == (5000,)
            with cursor.copy("COPY (SELECT * FROM t ORDER BY n) TO STDOUT") as copy:
                copy.set_types(["int4", "text"])
                assert list(copy.rows()) == rows
        assert other.execute("SELECT 1").fetchone() == (1,)


def copy_with_one_bad_row(conn: psycopg.Connection[object]) -> None:
    with conn.cursor() as cursor, cursor.copy("COPY t FROM STDIN") as copy:
        for n in range(10_000):
            copy.write(f"{n}\n" if n != 100 else "not a number\n")


def test_a_copy_that_fails_half_way_leaves_everyone_else_alone(narrow_proxy: ProxyProcess) -> None:
    with narrow_proxy.connect() as conn, narrow_proxy.connect() as other:
        conn.execute("CREATE TABLE t (n int)")
        for _ in range(3):
            with pytest.raises(psycopg.errors.InvalidTextRepresentation):
                copy_with_one_bad_row(conn)
            assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)
            assert conn.execute("SELECT 1").fetchone() == (1,)


def copy_in_extended(client: RawClient) -> None:
    """Begin a COPY by the extended protocol, with its Sync sent at once as libpq does."""
    client.send(parse(b"", b"COPY t FROM STDIN") + bind() + describe(b"P", b"") + execute() + encode.sync())
    assert client.kinds_until("G") == "12nG"


def test_an_extended_copy_whose_first_sync_the_server_ignores(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client, RawClient(narrow_proxy.parameters) as other:
        client.query("CREATE TABLE t (n int)")
        for _ in range(3):
            copy_in_extended(client)
            other.send(encode.query("SELECT count(*) FROM t"))
            client.send(encode.message(wire.COPY_DATA, b"1\n") + encode.message(wire.COPY_DONE) + encode.sync())
            assert client.kinds_until() == "CZ"
            assert other.kinds_until() == "TDCZ"


def test_an_extended_copy_that_fails_with_late_data_and_two_syncs(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client, RawClient(narrow_proxy.parameters) as other:
        client.query("CREATE TABLE t (n int)")
        for _ in range(3):
            copy_in_extended(client)
            client.send(encode.message(wire.COPY_DATA, b"wrong\n") * 3)
            client.send(encode.message(wire.COPY_DONE) + encode.sync())
            assert client.kinds_until() == "EZ"
            # Had one ReadyForQuery too many been owed, it would now be taken for the answer to somebody's query.
            assert [kind for kind, _ in other.query("SELECT 1")] == list("TDCZ")
            assert [kind for kind, _ in client.query("SELECT 2")] == list("TDCZ")


def test_a_named_statement_follows_its_client(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.send(parse(b"s", b"SELECT 'one'") + encode.sync())
        two.send(parse(b"s", b"SELECT 'two'") + encode.sync())
        assert one.kinds_until() == two.kinds_until() == "1Z"
        for client, word in ((one, b"one"), (two, b"two"), (one, b"one")):
            client.send(bind(b"", b"s") + execute() + encode.sync())
            assert ("D", b"\0\x01\0\0\0\x03" + word) in client.read_until()


def test_the_unnamed_statement_of_an_earlier_transaction(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.send(parse(b"", b"SELECT 'one'") + encode.sync())
        two.send(parse(b"", b"SELECT 'two'") + encode.sync())
        assert one.kinds_until() == two.kinds_until() == "1Z"
        one.send(describe(b"S", b"") + bind() + execute() + encode.sync())
        assert one.kinds_until() == "tT2DCZ"


def test_a_name_that_is_taken_is_refused_by_the_name_that_the_client_knows(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client, RawClient(narrow_proxy.parameters) as other:
        client.send(parse(b"mine", b"SELECT 1") + encode.sync())
        assert client.kinds_until() == "1Z"
        client.send(parse(b"mine", b"SELECT 2") + encode.sync())
        assert client.error_until()["M"] == 'prepared statement "mine" already exists'
        client.send(bind(b"", b"mine") + execute() + encode.sync())
        assert ("D", b"\0\x01\0\0\0\x011") in client.read_until()
        other.send(bind(b"", b"mine") + encode.sync())
        assert other.error_until()["M"] == 'prepared statement "mine" does not exist'


def test_closing_a_statement_frees_its_name(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        client.send(parse(b"s", b"SELECT 1") + encode.close_statement(b"s") + parse(b"s", b"SELECT 2") + encode.sync())
        assert client.kinds_until() == "131Z"
        client.send(bind(b"", b"s") + execute() + encode.close_statement(b"s") + encode.sync())
        assert client.kinds_until() == "2DC3Z"
        client.send(bind(b"", b"s") + encode.sync())
        assert client.error_until()["C"] == "26000"


def test_a_parse_or_close_that_was_skipped_never_happened(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        client.send(parse(b"kept", b"SELECT 1") + encode.sync())
        client.kinds_until()
        failing = parse(b"", b"nonsense")
        client.send(failing + parse(b"new", b"SELECT 2") + encode.close_statement(b"kept") + encode.sync())
        assert client.kinds_until() == "EZ"
        client.send(bind(b"", b"kept") + execute() + encode.sync())
        assert client.kinds_until() == "2DCZ"
        client.send(bind(b"", b"new") + encode.sync())
        assert client.error_until()["C"] == "26000"
        client.send(parse(b"new", b"SELECT 3") + encode.sync())
        assert client.kinds_until() == "1Z"


def test_a_statement_that_fails_to_parse_can_be_parsed_again(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        for _ in range(2):
            client.send(parse(b"s", b"SELECT * FROM missing") + encode.sync())
            assert client.error_until()["C"] == "42P01"
        client.query("CREATE TABLE missing (a int)")
        client.send(parse(b"s", b"SELECT * FROM missing") + encode.sync())
        assert client.kinds_until() == "1Z"


def test_deallocate_all_forgets_every_statement(narrow_proxy: ProxyProcess) -> None:
    with narrow_proxy.connect() as conn, narrow_proxy.connect() as other:
        for _ in range(3):
            other.execute("SELECT 42", prepare=True)
        conn.execute("SELECT 42", prepare=True)
        conn.execute("DEALLOCATE ALL")
        conn.close()
        assert other.execute("SELECT 42", prepare=True).fetchone() == (42,)


def test_many_distinct_statements_stay_bounded_on_the_server(narrow_proxy: ProxyProcess) -> None:
    with narrow_proxy.connect(prepare_threshold=0) as conn:
        conn.prepared_max = 2000
        for n in range(1000):
            assert conn.execute(f"SELECT {n}").fetchone() == (n,)
        row = conn.execute("SELECT count(*) FROM pg_prepared_statements", prepare=False).fetchone()
        assert row is not None
        assert row[0] < 300
        for n in range(0, 1000, 50):
            assert conn.execute(f"SELECT {n}").fetchone() == (n,)


def test_parameters_of_the_startup_message_are_each_clients_own(narrow_proxy: ProxyProcess) -> None:
    tokyo = {"options": "-c TimeZone=Asia/Tokyo -c search_path=pg_catalog,public", "application_name": "é'\\"}
    with narrow_proxy.connect(**tokyo) as one, narrow_proxy.connect(client_encoding="latin1") as two:
        for _ in range(2):
            assert one.execute("SHOW TimeZone").fetchone() == ("Asia/Tokyo",)
            assert one.execute("SHOW search_path").fetchone() == ("pg_catalog,public",)
            assert two.execute("SHOW client_encoding").fetchone() == ("LATIN1",)
            assert two.execute("SHOW TimeZone").fetchone() != ("Asia/Tokyo",)
            assert two.execute("SHOW search_path").fetchone() == ('"$user", public',)
        assert one.info.timezone.key == "Asia/Tokyo"  # type: ignore[attr-defined]
        assert two.info.encoding == "iso8859-1"


def test_a_parameter_that_postgresql_refuses_ends_the_login(narrow_proxy: ProxyProcess) -> None:
    with pytest.raises(psycopg.OperationalError, match='invalid value for parameter "TimeZone"'):
        narrow_proxy.connect(options="-c TimeZone=Atlantis")
    with narrow_proxy.connect() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_what_changes_the_session_keeps_its_client_on_one_server_connection(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("SET work_mem TO '1234kB'")
        two.send(encode.query("SHOW work_mem"))
        assert ("D", b"\0\x01\0\0\0\x061234kB") in one.query("SHOW work_mem")
        one.send(encode.terminate())
        assert ("D", b"\0\x01\0\0\0\x034MB") in two.read_until()


def test_an_update_does_not_pin(narrow_proxy: ProxyProcess) -> None:
    with narrow_proxy.connect() as one, narrow_proxy.connect() as two:
        one.execute("CREATE TABLE t (a int)")
        one.execute("UPDATE t SET a = 1")
        one.execute("BEGIN")
        one.execute("SET LOCAL work_mem TO '1MB'")
        one.execute("COMMIT")
        assert two.execute("SELECT 1").fetchone() == (1,)


def test_cancel_while_running(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client, RawClient(narrow_proxy.parameters) as other:
        client.send(encode.query("SELECT pg_sleep(60)"))
        eventually(lambda: "pg_sleep" in running(narrow_proxy))
        with RawClient(narrow_proxy.parameters, login=False) as canceller:
            canceller.send(encode.cancel_request(client.pid, client.key))
            assert canceller.is_closed()
        assert client.error_until()["C"] == "57014"
        assert [kind for kind, _ in other.query("SELECT 1")] == list("TDCZ")


def running(proxy: ProxyProcess) -> str:
    """What the test's user runs right now."""
    with proxy.database.server.connect() as conn:
        rows = conn.execute(
            "SELECT query FROM pg_stat_activity WHERE usename = %s AND state = 'active'", [proxy.database.user]
        ).fetchall()
    return " ".join(row[0] for row in rows)


def test_cancel_while_waiting_for_a_server_connection(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as holder, RawClient(narrow_proxy.parameters) as client:
        holder.query("BEGIN")
        client.send(encode.query("SELECT 1") + encode.query("SELECT 2"))
        with RawClient(narrow_proxy.parameters, login=False) as canceller:
            canceller.send(encode.cancel_request(client.pid, client.key))
            assert canceller.is_closed()
        assert client.error_until()["C"] == "57014"
        holder.query("COMMIT")
        assert ("D", b"\0\x01\0\0\0\x012") in client.read_until()


def test_cancel_after_the_end_and_with_a_wrong_key_hits_nobody(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client, RawClient(narrow_proxy.parameters) as other:
        client.query("SELECT 1")
        other.send(encode.query("SELECT pg_sleep(0.3)"))
        for key in (client.key, b"wrng", b""):
            with RawClient(narrow_proxy.parameters, login=False) as canceller:
                canceller.send(encode.cancel_request(client.pid, key))
                assert canceller.is_closed()
        assert other.kinds_until() == "TDCZ"


def test_a_query_amid_an_extended_request(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client, RawClient(narrow_proxy.parameters) as other:
        client.send(parse(b"", b"SELECT 1") + encode.query("SELECT 2"))
        assert client.kinds_until() == "1TDCZ"
        assert [kind for kind, _ in other.query("SELECT 1")] == list("TDCZ")
        # After an error the server answers neither the rest nor the query, only the Sync.
        client.send(parse(b"", b"nonsense") + encode.query("SELECT 2") + encode.sync())
        assert client.kinds_until() == "EZ"
        assert [kind for kind, _ in other.query("SELECT 1")] == list("TDCZ")
        assert [kind for kind, _ in client.query("SELECT 1")] == list("TDCZ")


def test_empty_queries_are_never_taken_for_the_proxys_own(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("CREATE TABLE t (n int)")
        one.send(parse(b"", b"COPY t FROM STDIN") + bind() + execute() + encode.flush())
        assert one.kinds_until("G") == "12G"
        two.send(encode.query("SELECT 'for two'"))
        one.send(
            encode.message(wire.COPY_DATA, b"bad\n")
            + encode.sync()
            + encode.message(wire.COPY_DONE)
            + encode.sync()
            + encode.query("")
        )
        assert [one.kinds_until() for _ in range(3)] == ["EZ", "Z", "IZ"]
        assert ("D", b"\0\x01\0\0\0\x07for two") in two.read_until()


def test_the_unnamed_statement_of_another_client_is_out_of_reach(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.send(parse(b"", b"SELECT 'secret'") + bind() + execute() + encode.sync())
        assert one.kinds_until() == "12DCZ"
        for message in (bind(), describe(b"S", b"")):
            two.send(message + encode.sync())
            assert two.error_until()["C"] == "26000"


def test_a_copy_that_fails_while_its_client_is_in_mid_message_frees_its_server_connection(
    narrow_proxy: ProxyProcess,
) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("CREATE TABLE t (n int)")
        one.send(encode.query("COPY t FROM STDIN"))
        one.kinds_until("G")
        late = encode.message(wire.COPY_DATA, b"1\n" * 50_000)
        one.send(encode.message(wire.COPY_DATA, b"bad\n") + late[:70_000])
        assert one.kinds_until() == "EZ"
        one.send(late[70_000:] + encode.message(wire.COPY_DONE))
        assert [kind for kind, _ in two.query("SELECT 1")] == list("TDCZ")


def test_an_error_text_that_looks_fatal_is_not(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.send(encode.query("DO $$ BEGIN RAISE EXCEPTION 'VFATAL'; END $$"))
        assert one.error_until()["M"] == "VFATAL"
        assert [kind for kind, _ in two.query("SELECT 1")] == list("TDCZ")


def test_what_is_sent_before_a_goodbye_is_done(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        two.query("CREATE TABLE t (n int)")
        one.send(encode.query("INSERT INTO t SELECT 1 FROM pg_sleep(0.2)") + encode.terminate())
        assert one.is_closed()
        assert ("D", b"\0\x01\0\0\0\x011") in two.query("SELECT count(*) FROM t")


def test_skipped_messages_are_undone_in_reverse(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        client.send(parse(b"s", b"SELECT 'old'") + parse(b"", b"SELECT 'unnamed'") + encode.sync())
        assert client.kinds_until() == "11Z"
        again = encode.close_statement(b"s") + parse(b"s", b"SELECT 'new'") + parse(b"", b"SELECT 'other'")
        client.send(bind(b"", b"missing") + again + encode.sync())
        assert client.kinds_until() == "EZ"
        client.send(bind(b"", b"s") + execute() + bind() + execute() + encode.sync())
        rows = [body[6:] for kind, body in client.read_until() if kind == "D"]
        assert rows == [b"\x03old"[1:], b"unnamed"]


def test_a_statement_whose_parse_was_skipped_in_an_earlier_request_of_a_pipeline(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        client.send(bind(b"", b"missing") + parse(b"a", b"SELECT 9") + encode.sync())
        client.send(parse(b"b", b"SELECT 9") + bind(b"", b"b") + execute() + encode.sync())
        assert client.kinds_until() == "EZ"
        assert client.kinds_until() == "12DCZ"
