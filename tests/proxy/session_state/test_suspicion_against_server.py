"""The suspicion against the truth: whatever PostgreSQL says a text has changed in its session, we had suspected.

Texts are made around the words that change a session, with everything that hides or disguises them; each is run in a
PostgreSQL session of its own. What PostgreSQL refuses, and rolls back, has changed nothing and proves nothing.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.postgres import Database
from tests.support.rawclient import RawClient

from tidegate_proxy.core.suspect import (
    CURSOR,
    LISTENING,
    LOCK,
    PREPARED,
    SEQUENCE,
    TEMPORARY,
    UNREADABLE,
    Suspicion,
    examine,
    is_suspect,
)
from tidegate_proxy.protocol import encode

CUSTOM = ("app.a", "app.b")

# What the session has before, so that RESET and DISCARD have something to change.
BEFORE = "SET work_mem TO '2MB'; SET app.a TO 'before'; SET TimeZone TO 'Asia/Tokyo'; SET escape_string_warning TO off;"
SET_BEFORE = {"work_mem", "app.a", "timezone", "escape_string_warning", "standard_conforming_strings"}

SPACE = st.sampled_from(
    [
        " ",
        "  ",
        "\t",
        "\n",
        "\r\n",
        "\x0c",
        " \n ",
        "/**/",
        "/* c */",
        "/* ; SET a */",
        "/* /* ' */ \" */",
        "-- '\n",
        "--; SET b\r",
        " -- /*\n",
    ]
)
NO_SPACE_NEEDED = st.one_of(st.just(""), SPACE)


def cased(word: str) -> st.SearchStrategy[str]:
    return st.sampled_from([word, word.lower(), word.title(), word.swapcase()])


def sql(template: str) -> st.SearchStrategy[str]:
    """A statement whose words come in any case, with anything between them that counts as white space."""

    @st.composite
    def build(draw: st.DrawFn) -> str:
        parts = [draw(NO_SPACE_NEEDED)]
        for number, word in enumerate(template.split(" ")):
            if number:
                parts.append(draw(SPACE))
            parts.append(draw(cased(word)) if word.isalpha() else word)
        return "".join(parts) + draw(NO_SPACE_NEEDED)

    return build()


CHANGING = [
    "SET work_mem TO '1234kB'",
    "SET SESSION work_mem = 1235",
    'SET "Work_Mem" TO DEFAULT',
    'SET U&"work\\005fmem" TO 1236',
    "SET TIME ZONE 'Europe/Rome'",
    "SET TIME ZONE LOCAL",
    "SET NAMES 'LATIN1'",
    "SET SCHEMA 'pg_catalog'",
    'SET search_path TO a, "b;c"',
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET SESSION AUTHORIZATION DEFAULT",
    "SET ROLE other_role",
    "SET app.a TO 'x;y'",
    "SET app.b TO E'a\\'; SET app.a TO b'",
    "SET XML OPTION DOCUMENT",
    "RESET work_mem",
    "RESET TIME ZONE",
    "RESET ALL",
    "DISCARD ALL",
    "DISCARD PLANS",
    "SELECT set_config('work_mem', '1237kB', false)",
    "SELECT set_config ( 'app.' || 'b' , 'y', false)",
    "SELECT \"set_config\"('app.a', 'z', 'f')",
    "SELECT U&\"set\\005fconfig\"('app.a', 'z', 'f')",
    "SELECT pg_catalog.set_config(is_local => false, new_value => '7', setting_name => 'app.b')",
    "UPDATE pg_settings SET setting = '1238' WHERE name = 'work_mem'",
    "PREPARE p AS SELECT 1",
    "PREPARE p ( int ) AS SELECT $1",
    "LISTEN c",
    'LISTEN "a;b"',
    "UNLISTEN *",
    "CREATE TEMP TABLE t ( a int )",
    "CREATE TEMPORARY VIEW v AS SELECT 1",
    "CREATE LOCAL TEMP TABLE t AS SELECT 1",
    "CREATE TABLE pg_temp.t ( a int )",
    'CREATE TABLE "pg_temp".t ( a int )',
    'CREATE TABLE U&"pg\\005ftemp".t ( a int )',
    "SELECT 1 AS a INTO TEMP t",
    "SELECT 1 AS a INTO pg_temp . t",
    "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_lock_shared(1, 2)",
    'SELECT U&"pg_advisory\\005flock"(1)',
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "DECLARE \"c;d\" NO SCROLL CURSOR WITH HOLD FOR SELECT ';'",
    "SELECT nextval('s')",
    "SELECT setval('s', 5)",
    "DO $$ BEGIN PERFORM set_config('app.b', '1', false); END $$",
    "DO $x$ BEGIN CREATE TEMP TABLE t (a int); END $x$",
    "DO 'BEGIN EXECUTE ''LISTEN '' || ''c''; END'",
    "DO $$ BEGIN PERFORM pg_advisory_lock(3); END $$",
    "SELECT * FROM ts_stat('SELECT ''a''::tsvector FROM pg_advisory_lock(1)')",
    "SELECT * FROM ts_stat('SELECT ''a''::tsvector FROM set_' || 'config(''app.b'', ''1'', false)')",
    "SELECT ts_rewrite('a'::tsquery, $$SELECT 'a'::tsquery, 'b'::tsquery FROM nextval('s')$$)",
    "SET LOCAL search_path TO pg_temp; CREATE TABLE t ( a int )",
    "SELECT set_config('search_path', 'pg_' || 'temp', true); CREATE TABLE t ( a int )",
    "SET LOCAL SCHEMA E'pg\\137temp'; CREATE TABLE t ( a int )",
    "EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1",
    "WITH w AS ( SELECT set_config('app.b', 'w', false) ) SELECT * FROM w",
]
HARMLESS = [
    "SELECT 1",
    "SELECT 'SET app.a TO 1; LISTEN c'",
    "SELECT $$; SET app.a TO 1; $$",
    "SELECT $a$ $$ ; LISTEN c; $b$ $a$",
    "SELECT E'\\'; SET app.a TO 1; --'",
    'SELECT 1 AS "; SET app.a TO 1; LISTEN c"',
    "SELECT U&'\\0041;' UESCAPE '\\'",
    "INSERT INTO notes VALUES ('a; DISCARD ALL')",
    "UPDATE notes SET note = '; RESET ALL'",
    "SELECT a$b$ FROM ( SELECT 1 AS a$b$ ) AS x",
    "SET LOCAL work_mem TO '1239kB'",
    "SELECT set_config('app.b', 'l', true)",
    "SELECT pg_advisory_xact_lock(1)",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "NOTIFY c, 'LISTEN'",
    "SELECT 'a\\'",
    "SELECT 'a\\''",
    "SELECT '\\', ' ; SET app.a TO 1 --'",
    "SELECT '\\'' ; SET app.b TO 2 --'",
    "",
]
STATEMENT = st.one_of(
    st.sampled_from(CHANGING).flatmap(sql),
    st.sampled_from(CHANGING).flatmap(sql),
    st.sampled_from(HARMLESS).flatmap(sql),
)
# Put anywhere, they hide what follows or what is before, or show what was hidden.
BREAKERS = ["'", '"', "\\", "$$", "$x$", "/*", "*/", "--", ";", "\n", "E'", "U&'", "$", "''", "(", "\x01", "é"]
RAW_BREAKERS = [b"\xff", b"\xc3", b"\x83\x5c", b"\xa0", b"\xe3\x80\x80"]


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """A Query's text."""
    statements = draw(st.lists(STATEMENT, min_size=1, max_size=4))
    text = ";".join(statements).encode()
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        breaker = draw(st.one_of(st.sampled_from(BREAKERS).map(str.encode), st.sampled_from(RAW_BREAKERS)))
        where = draw(st.integers(0, len(text)))
        text = text[:where] + breaker + text[where:]
    return text


STATE = f"""
SELECT pg_catalog.lower(name), setting FROM pg_catalog.pg_settings WHERE name !~ '^(transaction_|plpgsql[.])'
UNION ALL SELECT name, pg_catalog.current_setting(name, true)
    FROM pg_catalog.unnest(ARRAY{[*CUSTOM, "role", "session_authorization"]!r}) AS name
UNION ALL SELECT '{LISTENING}', 'yes' FROM pg_catalog.pg_listening_channels()
UNION ALL SELECT '{PREPARED}', 'yes' FROM pg_catalog.pg_prepared_statements WHERE from_sql
UNION ALL SELECT '{CURSOR}', 'yes' FROM pg_catalog.pg_cursors WHERE is_holdable
UNION ALL SELECT '{LOCK}', 'yes' FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()
UNION ALL SELECT '{TEMPORARY}', 'yes' FROM pg_catalog.pg_depend
    WHERE refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
    AND refobjid = pg_catalog.pg_my_temp_schema() AND refobjid <> 0
"""


def fields(row: bytes) -> list[bytes | None]:
    values: list[bytes | None] = []
    pos = 2
    for _ in range(struct.unpack_from("!h", row)[0]):
        (length,) = struct.unpack_from("!i", row, pos)
        pos += 4
        values.append(None if length < 0 else row[pos : pos + length])
        pos += max(length, 0)
    return values


def state(session: RawClient) -> dict[str, bytes]:
    """What the session is, as the server itself tells."""
    answer = session.query(STATE)
    assert "E" not in [kind for kind, _ in answer], answer
    rows = [fields(body) for kind, body in answer if kind == "D"]
    result = {(name or b"").decode(): value or b"" for name, value in rows}
    if "E" not in [kind for kind, _ in session.query("SELECT pg_catalog.lastval()")]:
        result[SEQUENCE] = b"yes"
    return result


def missed(changed: set[str], suspicion: Suspicion) -> set[str]:
    """What has changed without a suspicion."""
    kinds = {LISTENING, PREPARED, CURSOR, LOCK, TEMPORARY, SEQUENCE}
    unsuspected = (changed & kinds) - suspicion.ask - suspicion.pins
    if UNREADABLE not in suspicion.pins:
        unsuspected |= (
            changed - kinds - suspicion.names - suspicion.reset - (SET_BEFORE if suspicion.reset_all else set())
        )
    return unsuspected


@pytest.fixture
def role(database: Database) -> Iterator[Database]:
    """A database whose user may become `other_role`, with a table and a sequence."""
    with database.server.connect() as admin:
        if admin.execute("SELECT FROM pg_roles WHERE rolname = 'other_role'").fetchone() is None:
            admin.execute("CREATE ROLE other_role")
        admin.execute(f"GRANT other_role TO {database.user}")
    with RawClient(database.parameters) as session:
        session.query("CREATE TABLE notes (note text); CREATE SEQUENCE s")
        session.query("ALTER DATABASE " + database.name + " SET statement_timeout TO '10s'")
    yield database
    with database.server.connect() as admin:
        admin.execute(f"REVOKE other_role FROM {database.user}")


@pytest.mark.parametrize("standard_strings", ["on", "off"])
def test_whatever_changes_a_session_is_suspected(role: Database, standard_strings: str) -> None:
    counts: Counter[str] = Counter()
    before: dict[str, bytes] = {}

    @settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=400,
        suppress_health_check=list(HealthCheck),
    )
    @given(text=texts())
    def check(text: bytes) -> None:
        with RawClient(role.parameters) as session:
            session.query(f"{BEFORE} SET standard_conforming_strings TO {standard_strings}")
            if not before:
                before.update(state(session))
            answer = run(session, text)
            if "E" in answer:
                counts["refused"] += 1
            session.query("COMMIT")
            after = state(session)
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        suspicion = examine(text, standard_strings == "on") if is_suspect(text) else None
        assert not missed(changed, suspicion or Suspicion()), (text, changed, suspicion)
        counts["changed"] += bool(changed)
        counts["suspected"] += suspicion is not None
        counts["false alarms"] += suspicion is not None and not changed and "E" not in answer

    check()
    accepted = 400 - counts["refused"]
    # Enough has really been tried, and a suspicion is more often right than not.
    assert counts["changed"] > 80
    assert counts["false alarms"] < accepted / 2


def run(session: RawClient, text: bytes) -> str:
    session.send(encode.message(ord("Q"), text + b"\0"))
    return session.kinds_until()
