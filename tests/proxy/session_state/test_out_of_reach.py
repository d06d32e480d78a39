"""Ways around the look at statements, by which one client could see or disturb what is another's."""

from __future__ import annotations

import struct

import pytest
from tests.support.proxy import ProxyProcess, eventually
from tests.support.rawclient import RawClient, bind, execute, parse

from tidegate_proxy.core.statements import intern_statement
from tidegate_proxy.protocol import encode, wire

Q, S = encode.query, encode.sync()
HIDDEN = "CREATE SEQUENCE s; CREATE FUNCTION hidden() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('s') $$"
LASTVAL = encode.message(wire.FUNCTION_CALL, struct.pack("!ihhh", 2559, 0, 0, 0))


def values(client: RawClient, sql: str) -> list[bytes]:
    """The first column of each row; nothing after an error."""
    return [body[6:] for kind, body in client.query(sql) if kind == "D"]


def run(sql: bytes) -> bytes:
    return parse(b"", sql) + bind() + execute()


@pytest.mark.parametrize("begin", ["SELECT set_config('search_path', 'PG_TEMP, public', false)", None])
def test_a_table_made_while_only_pg_temp_is_written_to(narrow_proxy: ProxyProcess, begin: str | None) -> None:
    search_path = "public" if begin else "Pg_Temp, public"
    with RawClient(narrow_proxy.parameters, search_path=search_path) as one:
        if begin:
            one.query(begin)
        one.query("CREATE TABLE secret AS SELECT 42")
        assert values(one, "SELECT * FROM secret") == [b"42"]
    with RawClient(narrow_proxy.parameters) as two:
        assert values(two, "SELECT relname FROM pg_class WHERE relname = 'secret'") == []


@pytest.mark.parametrize(
    "read",
    [
        Q("SELECT lastval(), '" + "x" * 200_000 + "'"),
        run(b"SELECT lastval(), '" + b"x" * 1_100_000 + b"'") + S,
        LASTVAL,
        Q('SELECT U&"\\006castval"()'),
    ],
    ids=["long query", "long statement", "function call", "in disguise"],
)
def test_numbers_of_sequences(narrow_proxy: ProxyProcess, read: bytes) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query(HIDDEN)
        one.query("SELECT hidden()")
        two.send(read)
        assert two.error_until()["C"] == "55000"


def test_what_discard_all_does_not_reach_stays_pinned(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one:
        one.send(run(b"DISCARD ALL") + run(b"SELECT set_config('app.'||'x', 'secret', false)") + S)
        one.read_until()
        one.query("SELECT 1")
    with RawClient(narrow_proxy.parameters) as two:
        assert values(two, "SELECT coalesce(current_setting('app.x', true), '')") == [b""]


def test_discard_and_nextval_in_one_text(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one:
        one.query("CREATE SEQUENCE s")
        one.query("DISCARD SEQUENCES; SELECT nextval('s')")
        assert values(one, "SELECT currval('s')") == [b"1"]


@pytest.mark.parametrize(
    "disturb",
    [
        encode.close_statement(b"%s") + S,
        Q("DEALLOCATE %s"),
        (parse(b"%s", b"SELECT 2") + S) * 2,
    ],
    ids=["Close", "DEALLOCATE", "taken"],
)
def test_statements_of_others_stay_prepared(narrow_proxy: ProxyProcess, disturb: bytes) -> None:
    name = intern_statement(b"SELECT 77\0\0\0").name
    message = disturb.replace(b"%s", b"tidegate_" + b"0" * 32)
    assert len(name) == len(b"tidegate_" + b"0" * 32)
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.send(parse(b"mine", b"SELECT 77") + S)
        one.read_until()
        names = [value for value in values(two, "SELECT name FROM pg_prepared_statements") if b"tidegate_" in value]
        two.send(_with_name(disturb, names[0]))
        for _ in range(message.count(S) or 1):
            two.read_until()
        one.send(bind(b"", b"mine") + execute() + S)
        assert one.kinds_until() == "2DCZ"


def _with_name(messages: bytes, name: bytes) -> bytes:
    out, pos = b"", 0
    while pos < len(messages):
        end = pos + 1 + int.from_bytes(messages[pos + 1 : pos + 5], "big")
        out += encode.message(messages[pos], messages[pos + 5 : end].replace(b"%s", name))
        pos = end
    return out


def test_no_text_is_another_one_and_its_context(narrow_proxy: ProxyProcess) -> None:
    body, context = b"SELECT 77\0\0\0", b"[('search_path', 'public')]"
    assert intern_statement(body, context) is not intern_statement(body + context)


def test_a_new_table_in_front_of_another(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("CREATE SCHEMA a; CREATE TABLE public.t AS SELECT 'old' AS v")
        for client in (one, two):
            client.query("SET search_path TO a, public")
        one.send(parse(b"s", b"SELECT v FROM t") + bind(b"", b"s") + execute() + S)
        one.read_until()
        one.query("CREATE TABLE a.t (v text)")
        one.query("INSERT INTO a.t VALUES ('new')")
        two.send(parse(b"s", b"SELECT v FROM t") + bind(b"", b"s") + execute() + S)
        assert [body[6:] for kind, body in two.read_until() if kind == "D"] == [b"new"]


def test_an_operator_of_the_clients_hides_no_lock(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one:
        one.query("CREATE SCHEMA evil; CREATE FUNCTION evil.no(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false'")
        one.query("CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.no)")
        one.query("SET search_path TO evil, pg_catalog, public")
        one.query("SELECT pg_advisory_lock(9)")
        eventually(lambda: "pinned to its server connection: advisory lock" in narrow_proxy.log)


def test_a_copy_whose_client_says_goodbye_at_once_takes_no_slot(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        two.query("CREATE TABLE ints (n int)")
        one.send(run(b"COPY ints FROM STDIN") + S + encode.terminate())
        assert values(two, "SELECT count(*) FROM ints") == [b"0"]


@pytest.mark.parametrize("made", ["SELECT pg_advisory_lock(5), 1 AS temp", "SET work_mem TO '77MB'; SELECT 1 AS temp"])
def test_what_a_client_believes_to_have_is_not_lost_in_silence(narrow_proxy: ProxyProcess, made: str) -> None:
    database = narrow_proxy.database
    waiting = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = %s"
    with (
        RawClient(narrow_proxy.parameters) as one,
        database.server.connect(dbname=database.name) as locking,
        database.server.connect() as admin,
        locking.transaction(),
    ):
        # The server is lost before it can say what the client has left there.
        locking.execute("LOCK TABLE pg_catalog.pg_depend")
        one.query(made)
        eventually(lambda: admin.execute(waiting, [database.user]).fetchall() == [(True,)])
        assert one.read()[0] == "E"
        assert one.is_closed()


def test_a_lock_of_a_lost_transaction_is_not_believed_in(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, narrow_proxy.database.server.connect() as admin:
        one.query("BEGIN")
        one.query("SELECT pg_advisory_lock(5)")
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s AND state LIKE 'idle in%%'",
            [narrow_proxy.database.user],
        )
        assert one.is_closed()
