"""What the random scripts of `test_mirror` once found, each as small as it gets."""

from __future__ import annotations

import psycopg
import pytest
from tests.support.proxy import ProxyProcess, StartProxy, eventually
from tests.support.rawclient import RawClient, bind, execute, parse

from tidegate_proxy.protocol import encode


def setting(client: RawClient, name: str) -> str:
    """A parameter as the server sees it."""
    row = next(body for kind, body in client.query(f"SELECT current_setting('{name}')") if kind == "D")
    return row[6:].decode()


@pytest.mark.parametrize(
    ("script", "own"),
    [
        (["RESET work_mem; SET work_mem TO '6MB'"], "6MB"),
        (["SET work_mem TO '6MB'; RESET work_mem"], "2MB"),
        (["BEGIN", "SET work_mem TO '6MB'", "RESET work_mem", "COMMIT"], "2MB"),
        (["BEGIN", "RESET work_mem", "SET work_mem TO '6MB'", "COMMIT"], "6MB"),
        (["BEGIN", "SET work_mem TO DEFAULT", "SET work_mem TO '6MB'", "COMMIT"], "6MB"),
        (["RESET ALL; SET work_mem TO '6MB'"], "6MB"),
        (["SET work_mem TO '6MB'; RESET ALL"], "2MB"),
        (["BEGIN", "SET work_mem TO '6MB'", "RESET work_mem", "ROLLBACK"], "2MB"),
    ],
)
def test_set_and_reset_in_one_transaction(narrow_proxy: ProxyProcess, script: list[str], own: str) -> None:
    with (
        RawClient(narrow_proxy.parameters, options="-c work_mem=2MB") as one,
        RawClient(narrow_proxy.parameters) as two,
    ):
        for statement in script:
            one.query(statement)
        assert setting(two, "work_mem") == "4MB"
        assert setting(one, "work_mem") == own


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("reset", ["RESET ALL", "RESET TimeZone", "BEGIN; RESET TimeZone; COMMIT", "DISCARD ALL"])
def test_what_follows_a_reset_finds_the_parameters_that_the_session_began_with(
    narrow_proxy: ProxyProcess, reset: str, pinned: bool
) -> None:
    with RawClient(narrow_proxy.parameters, options="-c TimeZone=Asia/Tokyo -c work_mem=2MB") as one:
        if pinned:
            one.query("SELECT set_config('app.' || 'x', '1', false)")
        for _ in range(3):
            one.query("SET TimeZone TO 'Europe/Rome'")
            one.send(encode.query(reset) + encode.query("SHOW TimeZone") + encode.query("SHOW work_mem"))
            assert "E" not in one.kinds_until()
            shown = [body[6:] for _ in range(2) for kind, body in one.read_until() if kind == "D"]
            assert shown == [b"Asia/Tokyo", b"2MB"]


def test_a_reset_all_that_was_skipped_after_an_error(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("SET lock_timeout TO '1234ms'")
        parts = [parse(b"", sql) + bind() + execute() for sql in (b"SELECT 1/0", b"RESET ALL")]
        one.send(b"".join(parts) + encode.sync())
        one.read_until()
        assert setting(two, "lock_timeout") == "0"
        assert setting(one, "lock_timeout") == "1234ms"


def test_a_sql_execute_of_a_protocol_level_statement_is_as_suspect_as_that(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one:
        one.send(parse(b"locks", b"SELECT pg_advisory_lock(1)") + encode.sync())
        one.read_until()
        one.query("EXECUTE locks")
        eventually(lambda: "pinned to its server connection: advisory lock" in narrow_proxy.log)


@pytest.mark.parametrize("encoding", ["LATIN1", "SJIS", "UTF8"])
def test_values_beyond_ascii_in_any_client_encoding(narrow_proxy: ProxyProcess, encoding: str) -> None:
    value = {"LATIN1": "é", "SJIS": "ソ", "UTF8": "é✓"}[encoding]
    with narrow_proxy.connect(client_encoding=encoding) as one, narrow_proxy.connect() as two:
        one.execute("SELECT set_config('app.x', %s, false)", [value])
        assert two.execute("SELECT coalesce(current_setting('app.x', true), '')").fetchone() == ("",)
        assert one.execute("SELECT current_setting('app.x')").fetchone() == (value,)


def test_roles_and_what_only_a_superuser_may_set(start_proxy: StartProxy, proxy: ProxyProcess) -> None:
    user = proxy.database.user
    superuser = {"user": "postgres", "password": proxy.database.server.password}
    narrow = start_proxy(default_pool_size=1, database_settings=superuser)
    question = "SELECT session_user::text, current_setting('role'), current_setting('session_replication_role')"
    with narrow.connect() as one, narrow.connect() as two:
        clean = two.execute(question).fetchone()
        one.execute("SET session_replication_role TO replica")
        one.execute(f"SET SESSION AUTHORIZATION {user}")
        one.execute(f"SET ROLE {user}")
        own = one.execute(question).fetchone()
        assert own == (user, user, "replica")
        for _ in range(2):
            assert two.execute(question).fetchone() == clean
            assert one.execute(question).fetchone() == own
        one.execute("SET application_name TO 'x'")
        assert two.execute(question).fetchone() == clean
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            one.execute("SET session_replication_role TO origin")
        assert one.execute(question).fetchone() == own


@pytest.mark.parametrize("text", ["DISCARD ALL", "DEALLOCATE ALL", "DEALLOCATE s"])
def test_a_statement_prepared_anew_right_behind_its_deallocation(narrow_proxy: ProxyProcess, text: str) -> None:
    run = parse(b"s", b"SELECT 7") + bind(b"", b"s") + execute() + encode.sync()
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        for client in (one, two):
            client.send(run)
            assert client.kinds_until() == "12DCZ"
        for _ in range(2):
            one.send(encode.query(text) + run)
            assert one.kinds_until() == "CZ"
            assert one.kinds_until() == "12DCZ"
        for client in (one, two):
            client.send(bind(b"", b"s") + execute() + encode.sync())
            assert client.kinds_until() == "2DCZ"


def test_a_name_is_free_again_right_behind_its_failed_parse(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one:
        one.send(parse(b"s", b"SELECT nonsense") + encode.sync() + parse(b"s", b"SELECT 1") + encode.sync())
        assert one.kinds_until() == "EZ"
        assert one.kinds_until() == "1Z"


def test_a_name_is_not_free_behind_a_close_that_was_skipped(narrow_proxy: ProxyProcess) -> None:
    again = parse(b"s", b"SELECT 1") + encode.sync()
    with RawClient(narrow_proxy.parameters) as one:
        one.send(again + bind(b"", b"nobody") + encode.close_statement(b"s") + encode.sync() + again)
        assert [one.kinds_until() for _ in range(3)] == ["1Z", "EZ", "EZ"]


def test_the_unnamed_statement_outlives_the_question_what_is_left_in_the_session(narrow_proxy: ProxyProcess) -> None:
    use = bind() + execute() + encode.sync()
    with RawClient(narrow_proxy.parameters) as one:
        one.query("LISTEN c")
        one.send(parse(b"", b"SELECT 1") + encode.sync())
        assert one.kinds_until() == "1Z"
        for _ in range(2):
            one.send(use)
            assert one.kinds_until() == "2DCZ"
        one.send(parse(b"", b"DISCARD TEMP") + use + use)
        assert [one.kinds_until() for _ in range(2)] == ["12CZ", "2CZ"]


def test_a_skipped_parse_gives_no_name(narrow_proxy: ProxyProcess) -> None:
    use = bind(b"", b"s") + execute() + encode.sync()
    with RawClient(narrow_proxy.parameters) as one:
        one.send(bind(b"", b"nobody") + parse(b"s", b"SELECT 1") + encode.sync() + use)
        assert one.kinds_until() == one.kinds_until() == "EZ"


def test_a_name_that_was_refused_as_taken_is_gone_after_its_close(narrow_proxy: ProxyProcess) -> None:
    again = parse(b"s", b"SELECT 1") + encode.sync()
    with RawClient(narrow_proxy.parameters) as one:
        one.send(again + again + encode.close_statement(b"s") + encode.sync())
        assert [one.kinds_until() for _ in range(3)] == ["1Z", "EZ", "3Z"]
        one.send(again + again + encode.close_statement(b"s") + bind(b"", b"s") + execute() + encode.sync())
        assert [one.kinds_until() for _ in range(3)] == ["1Z", "EZ", "3EZ"]


def test_a_statement_too_long_to_be_carried_stays_prepared(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=2)
    text = b"SELECT 1 -- " + b"x" * (1 << 20)
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        one.send(parse(b"s", text) + encode.sync())
        assert one.kinds_until() == "1Z"
        two.query("SELECT 1")
        one.send(bind(b"", b"s") + execute() + encode.sync())
        assert one.kinds_until() == "2DCZ"


def test_a_sql_execute_whose_statement_cannot_be_prepared_any_more(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=2)
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        one.query("CREATE TABLE t (a int)")
        one.send(parse(b"s", b"SELECT * FROM t") + encode.sync())
        one.read_until()
        one.query("DROP TABLE t")
        two.query("DISCARD ALL")
        one.query("DISCARD PLANS")
        with RawClient(proxy.parameters) as three:
            three.query("BEGIN")
            one.query("SELECT 1")
            one.send(encode.query("EXECUTE s"))
            assert one.kinds_until() == "EZ"
            one.send(encode.query("EXECUTE s"))
            assert one.kinds_until() == "EZ"


def test_strings_that_are_read_as_the_client_has_just_said(narrow_proxy: ProxyProcess) -> None:
    # With backslashes as escapes the first string ends before the semicolon; without, it hides the SET.
    hidden = rb"SELECT '\''; SET work_mem TO '1234kB'; --'"
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.send(encode.query("SET standard_conforming_strings TO off") + encode.query(hidden))
        one.read_until()
        assert one.kinds_until() == "NTDCCZ"  # a warning about the backslash
        assert setting(two, "work_mem") == "4MB"
        assert setting(one, "work_mem") == "1234kB"
        one.query("SET work_mem TO '4321kB'")
        two.query("SELECT 1")
        one.query(hidden.decode())
        assert setting(two, "work_mem") == "4MB"
        assert setting(one, "work_mem") == "1234kB"


def test_encodings_whose_characters_contain_backslashes(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("SET client_encoding TO 'SJIS'")
        one.send(encode.query(b"SELECT E'\x83\x5c'; SET work_mem TO '1234kB'; --'"))
        assert "E" not in one.kinds_until()
        assert setting(two, "work_mem") == "4MB"
        assert setting(one, "work_mem") == "1234kB"


@pytest.mark.parametrize("how", ["SET search_path TO pg_temp, public", "SELECT set_config('search_path', $1, false)"])
def test_tables_that_are_temporary_by_the_search_path(narrow_proxy: ProxyProcess, how: str) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        values = [b"pg_temp, public"] if "$1" in how else []
        one.send(parse(b"", how.encode()) + bind(b"", b"", *values) + execute() + encode.sync())
        one.read_until()
        one.query("CREATE TABLE mine (a int)")
        two.send(encode.query("SELECT 1 FROM pg_class WHERE relname = 'mine' AND relnamespace = pg_my_temp_schema()"))
        one.query("DROP TABLE mine")
        one.query("RESET search_path")
        assert two.kinds_until() == "TCZ"


def test_defaults_changed_behind_a_comment(narrow_proxy: ProxyProcess) -> None:
    user = narrow_proxy.database.user
    with RawClient(narrow_proxy.parameters) as one:
        one.query(f"ALTER /* c */ ROLE {user} SET work_mem TO '1234kB'")
        with RawClient(narrow_proxy.parameters) as later:
            assert setting(later, "work_mem") == "1234kB"
        one.query(f"ALTER ROLE {user} RESET ALL")
