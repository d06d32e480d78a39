"""Changes that a statement does not show: in strings that functions run, behind a search path, in random()'s seed."""

from __future__ import annotations

import pytest
from tests.support.proxy import ProxyProcess, eventually
from tests.support.rawclient import RawClient, bind, execute, parse

from tidegate_proxy.core.suspect import (
    ASKED,
    LIBRARY,
    LOCK,
    OPAQUE,
    SEQUENCE,
    TEMPORARY,
    UNREADABLE,
    Suspicion,
    examine,
    examine_part,
    is_part_suspect,
    is_suspect,
)
from tidegate_proxy.protocol import encode

NULL = b"\0\x01\xff\xff\xff\xff"


def suspected(text: bytes) -> Suspicion:
    """What is suspected of a text; of a part of it, nothing less."""
    whole = examine(text, True) if is_suspect(text) else None
    assert whole is not None
    part = examine_part(text) if is_part_suspect(text) else None
    assert part is not None
    assert whole.ask <= part.ask
    assert whole.pins <= part.pins
    assert whole.local <= part.local
    return whole


@pytest.mark.parametrize(
    "text",
    [
        b"SELECT set_config('seed', '0.5', false)",
        b"SELECT SET_CONFIG('SEED', $1, true)",
        b"SELECT set_config('\"seed\"', '0.5', false)",
        b"SET SEED TO 0.5",
        b'set "seed" to 0.5',
        b"SET LOCAL seed = 0.5",
        b'SET SESSION "Seed" = 0.5',
        b"SELECT setseed(0.5)",
        b"DO $$ BEGIN PERFORM setseed(0.5); END $$",
    ],
)
def test_what_random_says_next_is_never_carried_to_another_server_connection(text: bytes) -> None:
    suspicion = suspected(text)
    assert OPAQUE in suspicion.pins
    assert not suspicion.names


@pytest.mark.parametrize(
    "function",
    [
        "query_to_xml({}, true, false, '')",
        "query_to_xmlschema({}, true, false, '')",
        "query_to_xml_and_xmlschema({}, true, false, '')",
        "pg_catalog . Query_To_Xml ( {}, true, false, '')",
        "* FROM ts_stat({})",
        "ts_rewrite('a & b'::tsquery, {})",
        "ts_rewrite(to_tsquery('english', $1), {})",
        "* FROM crosstab({}) AS t(a int)",
        "* FROM crosstab3({}, 3)",
    ],
)
class TestAFunctionThatRunsSQL:
    """Its string is as suspect as if it were sent by itself."""

    def test_everything_is_asked(self, function: str) -> None:
        suspicion = suspected(b"SELECT " + function.format("'SELECT a, b FROM t'").encode())
        assert suspicion.ask == set(ASKED)
        assert suspicion.local
        assert not suspicion.pins

    @pytest.mark.parametrize(
        ("inside", "pin"),
        [
            ("SELECT set_config(''app.a'', ''1'', false)", UNREADABLE),
            ("SELECT nextval(''s'')", SEQUENCE),
            ("SELECT setseed(0.5)", OPAQUE),
        ],
    )
    @pytest.mark.parametrize("quotes", ["'{}'", "E'{}'", "$x${}$x$"])
    def test_what_cannot_be_asked_pins(self, function: str, inside: str, pin: str, quotes: str) -> None:
        assert pin in suspected(b"SELECT " + function.format(quotes.format(inside)).encode()).pins

    @pytest.mark.parametrize(
        "computed", ["$1", "'SELECT set_con' || 'fig(1)'", "E'SELECT set\\x5fconfig(1)'", "format('%s', a)", "column"]
    )
    def test_sql_that_nobody_can_read_pins(self, function: str, computed: str) -> None:
        assert UNREADABLE in suspected(b"SELECT " + function.format(computed).encode()).pins


@pytest.mark.parametrize("text", [b"SELECT * FROM connectby('t', 'a', 'b', '1', 0)", b"SELECT * FROM xpath_table('a')"])
def test_functions_that_make_up_sql_pin(text: bytes) -> None:
    assert UNREADABLE in suspected(text).pins


def test_to_rewrite_without_sql_pins_nothing() -> None:
    assert not suspected(b"SELECT ts_rewrite(to_tsquery($1), $2::tsquery, 'b'::tsquery)").pins


def test_code_that_loads_a_library_pins() -> None:
    assert LIBRARY in suspected(b"DO $$ BEGIN LOAD 'auto_explain'; END $$").pins
    assert SEQUENCE in suspected(b"DO $$ BEGIN PERFORM nextval('s'); END $$").pins
    assert suspected(b"DO $$ BEGIN PERFORM currval('s'); END $$").reads_sequence


@pytest.mark.parametrize(
    "text",
    [
        b"SET LOCAL search_path TO pg_temp",
        b"SET LOCAL search_path TO 'pg_temp', public",
        b"SET LOCAL SCHEMA 'pg_temp'",
        b"SET LOCAL search_path TO E'pg\\x5ftemp'",
        b"SET LOCAL SCHEMA E'pg\\x5ftemp'",
        b"SELECT set_config('search_path', 'pg_temp', true)",
        b"SELECT set_config('search_path', $1, true)",
        b"SELECT set_config('Search_Path', $1::text, true)",
        b"SELECT set_config('search_path', $1, false)",
        b"SELECT set_config('search_path', 'pg_' || 'temp', true)",
        b"SELECT set_config('search_path', E'pg\\x5ftemp', true)",
        b"SELECT set_config($1, $2, true)",
        b"SELECT \"set_config\"('search_path', $1, true)",
    ],
)
def test_a_search_path_that_may_lead_to_temporary_objects(text: bytes) -> None:
    assert TEMPORARY in suspected(text).ask


@pytest.mark.parametrize(
    "text",
    [
        b"SET LOCAL search_path TO tenant, public",
        b"SELECT set_config('search_path', 'tenant', true)",
        b"SELECT set_config('app.tenant', $1, true)",
    ],
)
def test_a_search_path_that_plainly_does_not(text: bytes) -> None:
    assert suspected(text) == Suspicion(local=True)


@pytest.mark.parametrize(
    "texts",
    [
        ["BEGIN", "SET LOCAL search_path TO pg_temp", "CREATE TABLE t (a int)", "COMMIT"],
        ["BEGIN; SELECT set_config('search_path', 'pg' || '_temp', true); CREATE TABLE t (a int); COMMIT"],
        ["BEGIN", "SET LOCAL search_path TO E'pg\\137temp'", "CREATE TABLE t (a int)", "COMMIT"],
    ],
)
def test_a_temporary_table_of_which_nothing_is_said_pins(narrow_proxy: ProxyProcess, texts: list[str]) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        for text in texts:
            assert "E" not in [kind for kind, _ in client.query(text)]
        assert_pinned(narrow_proxy, client, TEMPORARY)


def test_a_temporary_table_behind_a_bound_search_path_pins(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        client.query("BEGIN")
        client.send(parse(b"", b"SELECT set_config('search_path', $1, true)") + bind(b"", b"", b"pg_temp"))
        client.send(execute() + encode.sync())
        assert "E" not in client.kinds_until()
        client.query("CREATE TABLE t (a int)")
        client.query("COMMIT")
        assert_pinned(narrow_proxy, client, TEMPORARY)


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, ''b''::tsquery FROM pg_advisory_lock(1)')", LOCK),
        ("SELECT * FROM ts_stat('SELECT ''a''::tsvector FROM pg_advisory_lock(1)')", LOCK),
        ("SELECT set_config('seed', '0.5', false)", OPAQUE),
        ("SELECT set_config('seed', '0.5', true)", OPAQUE),
    ],
)
def test_it_is_so_on_a_server(narrow_proxy: ProxyProcess, sql: str, reason: str) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        assert "E" not in [kind for kind, _ in client.query(sql)]
        assert_pinned(narrow_proxy, client, reason)


def assert_pinned(proxy: ProxyProcess, client: RawClient, reason: str) -> None:
    """It is, and what pins it is never seen by another client of the only server connection."""
    eventually(lambda: f"is pinned to its server connection: {reason}" in proxy.log, what="the pin")
    own = backend(client)
    client.send(encode.terminate())
    client.is_closed()
    with RawClient(proxy.parameters) as other:
        assert other.query("SELECT to_regclass('pg_temp.t')")[1][1] == NULL
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        assert other.query(locks)[1][1][6:] == b"0"
        if reason == OPAQUE:
            assert backend(other) != own


def backend(client: RawClient) -> bytes:
    return client.query("SELECT pg_backend_pid()")[1][1]


@pytest.mark.parametrize(
    "text",
    [
        b"EXPLAIN EXECUTE st",
        b"EXPLAIN (ANALYZE) EXECUTE st",
        b"/* a */ EXPLAIN EXECUTE st",
        b"SELECT 1; EXPLAIN EXECUTE st",
        b"CREATE TABLE t AS EXECUTE st",
        b"  create table t as execute st",
    ],
)
def test_what_executes_by_name_is_looked_at(text: bytes) -> None:
    # Whatever the named statement changes is for the one who knows it to say.
    assert is_suspect(text)
    assert examine(text, True) is None


def test_a_trigger_is_not_executed() -> None:
    assert not is_suspect(b"CREATE TRIGGER g AFTER INSERT ON t EXECUTE FUNCTION f()")
    assert not is_suspect(b"GRANT EXECUTE ON FUNCTION f TO a")
