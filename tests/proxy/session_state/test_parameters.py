"""Session parameters travel with their client: it always finds its own, and nobody else ever does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually
from tests.support.rawclient import RawClient, bind, execute, parse

from tidegate_proxy.protocol import encode

Conn = psycopg.Connection[tuple[Any, ...]]


def show(conn: Conn, name: str) -> object:
    """The parameter's value as the server sees it, without a word in the text that the proxy looks for."""
    row = conn.execute("SELECT current_setting(%s, true)", [name]).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture
def one(narrow_proxy: ProxyProcess) -> Iterator[Conn]:
    """A client."""
    with narrow_proxy.connect() as conn:
        yield conn


@pytest.fixture
def two(narrow_proxy: ProxyProcess) -> Iterator[Conn]:
    """Another client of the same single server connection."""
    with narrow_proxy.connect() as conn:
        yield conn


@pytest.mark.parametrize(
    ("statement", "name", "value"),
    [
        ("SET work_mem TO '1234kB'", "work_mem", "1234kB"),
        ("SET SESSION work_mem = '1235kB'", "work_mem", "1235kB"),
        ("set \"work_mem\" to '1236kB'", "work_mem", "1236kB"),
        ("/* c */ SET /* c */ work_mem /* = */ = '1237kB' -- end", "work_mem", "1237kB"),
        ("SELECT set_config('work_mem', '1238kB', false)", "work_mem", "1238kB"),
        ("SELECT pg_catalog.set_config ( 'work_mem' , '12' || '39kB', false)", "work_mem", "1239kB"),
        ("SET app.tenant TO 'é''\\'", "app.tenant", "é'\\"),
        ("SELECT set_config('app.tenant', 'x', false)", "app.tenant", "x"),
        ("SET TIME ZONE 'Asia/Tokyo'", "TimeZone", "Asia/Tokyo"),
        ('SET search_path TO a, "B c", public', "search_path", 'a, "B c", public'),
        ("SET DateStyle TO 'German'", "DateStyle", "German, DMY"),
        ("SET NAMES 'LATIN1'", "client_encoding", "LATIN1"),
        ("SET SCHEMA 'pg_catalog'", "search_path", "pg_catalog"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "default_transaction_read_only", "on"),
        ("SET XML OPTION DOCUMENT", "xmloption", "document"),
    ],
)
def test_a_parameter_is_carried_without_a_pin(one: Conn, two: Conn, statement: str, name: str, value: str) -> None:
    before = show(two, name)
    one.execute(statement)
    for _ in range(2):
        assert show(one, name) == value
        assert show(two, name) in (before, "" if "." in name else before)
    one.execute(f"RESET {name}")
    assert show(one, name) in (before, "" if "." in name else before)


def test_reset_all(one: Conn, two: Conn) -> None:
    one.execute("SET work_mem TO '1234kB'")
    one.execute("SET app.x TO '1'")
    two.execute("SET work_mem TO '4321kB'")
    one.execute("RESET ALL")
    assert show(one, "work_mem") == "4MB"
    assert not show(one, "app.x")
    assert show(two, "work_mem") == "4321kB"


def test_reset_goes_back_to_what_the_session_began_with(narrow_proxy: ProxyProcess, two: Conn) -> None:
    with narrow_proxy.connect(options="-c work_mem=1234kB -c TimeZone=Asia/Tokyo") as one:
        one.execute("SET work_mem TO '2MB'")
        assert show(two, "work_mem") == "4MB"
        one.execute("RESET work_mem")
        assert show(two, "work_mem") == "4MB"
        assert show(one, "work_mem") == "1234kB"
        one.execute("RESET ALL")
        assert show(one, "TimeZone") == "Asia/Tokyo"
        assert show(two, "TimeZone") != "Asia/Tokyo"


def test_a_rollback_takes_a_parameter_back(one: Conn, two: Conn) -> None:
    one.execute("SET work_mem TO '1234kB'")
    for statement in (
        "SET work_mem TO '2MB'",
        "RESET work_mem",
        "RESET ALL",
        "SELECT set_config('work_mem', '2MB', false)",
    ):
        one.execute("BEGIN")
        one.execute(statement)
        one.execute("ROLLBACK")
        assert show(two, "work_mem") == "4MB"
        assert show(one, "work_mem") == "1234kB"


def test_a_rollback_to_a_savepoint_takes_a_parameter_back(one: Conn, two: Conn) -> None:
    one.execute("BEGIN")
    one.execute("SET work_mem TO '1234kB'")
    one.execute("SAVEPOINT s")
    one.execute("SET work_mem TO '2MB'")
    one.execute("ROLLBACK TO s")
    one.execute("COMMIT")
    assert show(two, "work_mem") == "4MB"
    assert show(one, "work_mem") == "1234kB"


def test_a_failed_transaction_takes_a_parameter_back(one: Conn, two: Conn) -> None:
    one.execute("BEGIN")
    one.execute("SET work_mem TO '1234kB'")
    with pytest.raises(psycopg.errors.DivisionByZero):
        one.execute("SELECT 1/0")
    one.execute("COMMIT")
    assert show(one, "work_mem") == show(two, "work_mem") == "4MB"
    with pytest.raises(psycopg.errors.DivisionByZero):
        one.execute("SET work_mem TO '1234kB'; SELECT 1/0")
    assert show(one, "work_mem") == show(two, "work_mem") == "4MB"


def test_a_set_that_fails_changes_nothing(one: Conn, two: Conn) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        one.execute("SET work_mem TO 'much'")
    with pytest.raises(psycopg.errors.UndefinedObject):
        one.execute("SET no_such_thing TO 1")
    with pytest.raises(psycopg.errors.CantChangeRuntimeParam):
        one.execute("SET max_connections TO 1")
    assert show(one, "work_mem") == show(two, "work_mem") == "4MB"


def test_set_local_ends_with_its_transaction_and_is_no_suspect(
    narrow_proxy: ProxyProcess, one: Conn, two: Conn
) -> None:
    one.execute("BEGIN")
    one.execute("SET LOCAL work_mem TO '1234kB'")
    assert show(one, "work_mem") == "1234kB"
    one.execute("SELECT set_config('app.x', 'y', true)")
    one.execute("COMMIT")
    assert show(one, "work_mem") == show(two, "work_mem") == "4MB"
    assert not show(two, "app.x")
    one.execute("SELECT set_config($1, $2, true)".replace("$1", "'app.x'").replace("$2", "'z'"))
    assert not show(one, "app.x")


def test_set_by_the_extended_protocol_and_by_a_prepared_statement(one: Conn, two: Conn) -> None:
    with one.pipeline():
        one.execute("SET work_mem TO '1234kB'")
        one.execute("SELECT 1")
    assert show(two, "work_mem") == "4MB"
    assert show(one, "work_mem") == "1234kB"
    for size in ("2MB", "3MB", "5MB"):
        one.execute("SELECT set_config('work_mem', %s, false)", [size], prepare=True)
        assert show(two, "work_mem") == "4MB"
        assert show(one, "work_mem") == size


def test_a_computed_name_pins(narrow_proxy: ProxyProcess, one: Conn, two: Conn) -> None:
    one.execute("SELECT set_config('work' || %s, %s, false)", ["_mem", "1234kB"])
    eventually(lambda: "parameter whose name is computed" in narrow_proxy.log)
    assert show(one, "work_mem") == "1234kB"
    one.close()
    assert show(two, "work_mem") == "4MB"


def test_a_set_outside_a_transaction_takes_no_round_trip_of_its_own(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        client.send(encode.query("SET work_mem TO '1234kB'") + encode.query("SELECT 1"))
        assert client.kinds_until() == "CZ"
        assert client.kinds_until() == "TDCZ"


def test_roles_are_carried(start_proxy: StartProxy, database: Database) -> None:
    role = f"role_of_{database.name}"
    with database.server.connect() as admin:
        admin.execute(f'CREATE ROLE "{role}"')
        admin.execute(f'GRANT "{role}" TO "{database.user}"')
    try:
        proxy = start_proxy(default_pool_size=1)
        with proxy.connect() as one, proxy.connect() as two:
            one.execute(f'SET ROLE "{role}"')
            assert one.execute("SELECT current_user::text").fetchone() == (role,)
            assert two.execute("SELECT current_user::text").fetchone() == (database.user,)
            assert one.execute("SELECT current_user::text").fetchone() == (role,)
            one.execute("RESET ROLE")
            assert one.execute("SELECT current_user::text").fetchone() == (database.user,)
    finally:
        with database.server.connect() as admin:
            admin.execute(f'DROP ROLE "{role}"')


def test_session_authorization_is_carried(start_proxy: StartProxy, database: Database) -> None:
    superuser = {"user": "postgres", "password": database.server.password}
    proxy = start_proxy(default_pool_size=1, database_settings=superuser)
    with proxy.connect() as one, proxy.connect() as two:
        one.execute(f'SET SESSION AUTHORIZATION "{database.user}"')
        assert two.execute("SELECT session_user::text, current_user::text").fetchone() == ("postgres", "postgres")
        assert one.execute("SELECT session_user::text").fetchone() == (database.user,)
        one.execute("RESET SESSION AUTHORIZATION")
        assert one.execute("SELECT session_user::text").fetchone() == ("postgres",)


def test_defaults_of_a_role_reach_sessions_that_begin_later(one: Conn, two: Conn, narrow_proxy: ProxyProcess) -> None:
    user = narrow_proxy.database.user
    one.execute(f"ALTER ROLE {user} SET work_mem TO '1234kB'")
    with narrow_proxy.connect() as later:
        assert show(later, "work_mem") == "1234kB"
    one.execute(f"ALTER ROLE {user} RESET ALL")
    with narrow_proxy.connect() as later:
        assert show(later, "work_mem") == "4MB"


def test_each_client_is_told_the_parameters_of_its_own_session(one: Conn, two: Conn) -> None:
    one.execute("SET TIME ZONE 'Asia/Tokyo'")
    two.execute("SELECT 1")
    one.execute("SELECT 1")
    assert one.pgconn.parameter_status(b"TimeZone") == b"Asia/Tokyo"
    assert two.pgconn.parameter_status(b"TimeZone") != b"Asia/Tokyo"
    one.execute("SET client_encoding TO latin1")
    two.execute("SELECT 1")
    assert one.execute("SELECT 'é'").fetchone() == ("é",)
    assert two.execute("SELECT 'é'").fetchone() == ("é",)
    one.execute("BEGIN")
    one.execute("SET TIME ZONE 'UTC'")
    assert one.pgconn.parameter_status(b"TimeZone") == b"UTC"
    one.execute("ROLLBACK")
    assert one.pgconn.parameter_status(b"TimeZone") == b"Asia/Tokyo"
    one.execute("SET search_path TO pg_catalog")
    two.execute("SELECT 1")
    assert one.pgconn.parameter_status(b"search_path") == b"pg_catalog"
    assert two.pgconn.parameter_status(b"search_path") == b'"$user", public'


def test_constants_are_read_as_the_clients_own_parameters_say(one: Conn, two: Conn) -> None:
    one.execute("SET DateStyle TO 'ISO, DMY'")
    two.execute("SET DateStyle TO 'ISO, MDY'")
    for _ in range(2):
        assert one.execute("SELECT '01/02/2020'::date::text", prepare=True).fetchone() == ("2020-02-01",)
        assert two.execute("SELECT '01/02/2020'::date::text", prepare=True).fetchone() == ("2020-01-02",)


def test_functions_are_the_documented_limit_unless_every_transaction_is_checked(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, session_check="always")
    with proxy.connect() as one, proxy.connect() as two:
        one.execute(
            "CREATE FUNCTION hide() RETURNS void LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM set_config('work_mem', '1234kB', false); PERFORM pg_advisory_lock(7); END $$"
        )
        one.execute("SELECT hide()")
        assert show(one, "work_mem") == "1234kB"
        eventually(lambda: re.search("pinned.*advisory lock", proxy.log))
        one.execute("SELECT pg_advisory_unlock(7)")
        assert show(two, "work_mem") == "4MB"
        assert show(one, "work_mem") == "1234kB"


def test_a_do_block_that_sets_something_pins(narrow_proxy: ProxyProcess, one: Conn, two: Conn) -> None:
    one.execute("DO $$ BEGIN PERFORM set_config('work_mem', '1234kB', false); END $$")
    assert show(one, "work_mem") == "1234kB"
    one.close()
    assert show(two, "work_mem") == "4MB"


def test_the_log_names_the_kind_of_statement_and_never_its_values(narrow_proxy: ProxyProcess, one: Conn) -> None:
    one.execute("SELECT pg_advisory_lock(424242)")
    one.execute("SELECT set_config('app.' || 'hidden', 'top-secret', false)")
    eventually(lambda: "pinned to its server connection: advisory lock" in narrow_proxy.log)
    assert "top-secret" not in narrow_proxy.log
    assert "424242" not in narrow_proxy.log


def test_extended_protocol_set_is_read_back_after_its_sync(narrow_proxy: ProxyProcess, two: Conn) -> None:
    with RawClient(narrow_proxy.parameters) as one:
        one.send(parse(b"", b"SET work_mem TO '1234kB'") + bind() + execute() + encode.sync())
        assert one.kinds_until() == "12CZ"
        assert show(two, "work_mem") == "4MB"
        assert ("D", b"\0\x01\0\0\0\x061234kB") in one.query("SHOW work_mem")
