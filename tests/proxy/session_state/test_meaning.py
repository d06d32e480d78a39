"""A prepared statement is shared by its text only where the text means the same."""

from __future__ import annotations

import pytest
from tests.support.proxy import ProxyProcess, StartProxy
from tests.support.rawclient import RawClient, bind, execute, parse

from tidegate_proxy.protocol import encode

DATE = b"SELECT extract(day from date '01/02/2003')"


def ask(client: RawClient, name: bytes, sql: bytes | None = None) -> bytes:
    """Parse (unless that is done), bind and execute; the first value of the first row."""
    before = parse(name, sql) if sql is not None else b""
    client.send(before + bind(b"", name) + execute() + encode.sync())
    return next(body[6:] for kind, body in client.read_until() if kind == "D")


@pytest.mark.parametrize(
    "script",
    [
        ["BEGIN", "SET LOCAL datestyle TO 'DMY'"],
        ["BEGIN", "SET datestyle TO 'DMY'"],
        ["BEGIN", "SELECT set_config('datestyle', 'DMY', true)"],
        ["BEGIN; SET LOCAL datestyle TO 'DMY'"],
        ["SET datestyle TO 'DMY'"],
        ["DO $$ BEGIN SET datestyle TO 'DMY'; END $$"],
    ],
)
def test_statements_that_were_prepared_under_other_parameters(narrow_proxy: ProxyProcess, script: list[str]) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        assert ask(two, b"before", DATE) == b"2"
        for statement in script:
            one.query(statement)
        assert ask(one, b"d", DATE) == b"1"
        one.query("ROLLBACK")
        one.query("DISCARD ALL")
        assert ask(two, b"after", DATE) == b"2"
        assert ask(two, b"before") == b"2"


@pytest.mark.parametrize(
    "script", [["BEGIN", "SET LOCAL datestyle TO 'DMY'"], ["SET datestyle TO 'DMY'"], ["BEGIN; SET datestyle TO 'DMY'"]]
)
@pytest.mark.parametrize("by", ["Bind", "EXECUTE", "EXPLAIN EXECUTE, then Bind"])
def test_one_that_another_server_connection_reads_under_other_parameters(
    start_proxy: StartProxy, script: list[str], by: str
) -> None:
    proxy = start_proxy(default_pool_size=2)
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two, RawClient(proxy.parameters) as three:
        assert ask(one, b"d", DATE) == b"2"
        two.query("BEGIN")  # on the one server connection that has it
        for statement in script:
            one.query(statement)
        if by == "EXECUTE":
            assert [body[6:] for kind, body in one.query("EXECUTE d") if kind == "D"] == [b"1"]
        else:
            if by != "Bind":
                one.query("EXPLAIN EXECUTE d")
            assert ask(one, b"d") == b"1"
        one.query("COMMIT")
        assert ask(three, b"d", DATE) == b"2"
        one.query("SET datestyle TO 'MDY'")
        one.query("DEALLOCATE d")
        assert ask(one, b"d", DATE) == b"2"


def test_one_that_is_reused_and_bound_under_other_parameters(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=2, reuse_unnamed_statements_after=1)
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two, RawClient(proxy.parameters) as three:
        for _ in range(3):
            assert ask(one, b"", DATE) == b"2"
        two.query("BEGIN")
        one.send(parse(b"b", b"BEGIN") + bind(b"", b"b") + execute() + encode.sync())
        one.read_until()
        one.send(parse(b"l", b"SET LOCAL datestyle TO 'DMY'") + bind(b"", b"l") + execute() + encode.sync())
        one.read_until()
        assert ask(one, b"") == b"1"
        one.query("COMMIT")
        assert ask(three, b"", DATE) == b"2"


def test_in_session_mode_a_text_is_read_under_the_parameters_of_its_parse(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, pool_mode="session", reuse_unnamed_statements_after=1)
    for _ in range(2):
        with RawClient(proxy.parameters) as one:
            assert ask(one, b"d", DATE) == ask(one, b"", DATE) == b"2"
            one.query("SET datestyle TO 'DMY'")
            assert ask(one, b"e", DATE) == ask(one, b"", DATE) == b"1"
            assert ask(one, b"d") == b"2"


def test_a_rolled_back_savepoint_gives_a_text_its_meaning_back(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one:
        one.query("BEGIN; SAVEPOINT s; SET LOCAL datestyle TO 'DMY'")
        assert ask(one, b"a", DATE) == b"1"
        one.query("ROLLBACK TO s")
        assert ask(one, b"b", DATE) == b"2"
        assert ask(one, b"a") == b"1"


def test_a_parameter_that_a_function_sets_in_the_transaction(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, session_check="always")
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        one.query(
            "CREATE FUNCTION quiet() RETURNS text LANGUAGE sql AS $$ SELECT set_config('datestyle', 'DMY', true) $$"
        )
        one.query("BEGIN; SELECT quiet()")
        assert ask(one, b"d", DATE) == b"1"
        one.query("COMMIT")
        assert ask(two, b"d", DATE) == b"2"


@pytest.mark.parametrize("how", ["SET LOCAL extra_float_digits = 0", "SET extra_float_digits = 0"])
def test_how_many_digits_a_number_has_is_a_part_of_what_a_text_means(narrow_proxy: ProxyProcess, how: str) -> None:
    # As a constant it is made into text once, when the plan is made.
    number = b"SELECT (0.1::float8 + 0.2::float8)::text"
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("BEGIN")
        one.query(how)
        assert ask(one, b"n", number) == b"0.3"
        one.query("COMMIT")
        assert ask(two, b"n", number) == b"0.30000000000000004"


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_sql_knows_statements_by_the_clients_name(start_proxy: StartProxy, mode: str) -> None:
    proxy = start_proxy(default_pool_size=1, pool_mode=mode)
    for _ in range(2):
        with RawClient(proxy.parameters) as one:
            for _ in range(2):
                assert ask(one, b"s", b"SELECT 7") == b"7"
                assert [body[6:] for kind, body in one.query("EXECUTE s") if kind == "D"] == [b"7"]
                one.send(parse(b"s", b"SELECT 8") + encode.sync())
                assert one.error_until()["C"] == "42P05"
                one.send(parse(b"", b"EXECUTE s") + bind() + execute() + encode.sync())
                assert one.kinds_until() == "12DCZ"
                one.send(parse(b"", b"DEALLOCATE s") + bind() + execute() + encode.sync())
                assert one.kinds_until() == "12CZ"
                one.send(bind(b"", b"s") + encode.sync())
                assert one.error_until()["C"] == "26000"
            assert ask(one, b"s", b"SELECT 9") == b"9"
            one.send(encode.close_statement(b"s") + encode.sync())
            assert one.kinds_until() == "3Z"
            assert ask(one, b"s", b"SELECT 10") == b"10"


def test_a_local_timeout_keeps_no_statement_from_being_shared(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        assert ask(one, b"d", DATE) == b"2"
        two.query("BEGIN; SET LOCAL statement_timeout TO '1min'")
        assert ask(two, b"d", DATE) == b"2"
        shared = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%date ''01/02/2003%'"
        assert next(body for kind, body in two.query(shared) if kind == "D").endswith(b"1")


def test_a_temporary_table_in_place_of_another(narrow_proxy: ProxyProcess) -> None:
    look = b"SELECT a FROM t"
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("CREATE TABLE t AS SELECT 1 AS a")
        assert ask(one, b"s", look) == b"1"
        one.query("CREATE TEMP TABLE t AS SELECT 2 AS a")
        assert ask(one, b"t", look) == b"2"
        one.query("DROP TABLE pg_temp.t")
        assert ask(two, b"s", look) == b"1"
        assert ask(one, b"u", look) == b"1"


def test_a_private_statement_is_closed_on_the_server(narrow_proxy: ProxyProcess) -> None:
    count = "SELECT count(*) FROM pg_prepared_statements"
    with RawClient(narrow_proxy.parameters) as one:
        one.query("CREATE TEMP TABLE t (a int)")
        before = next(body for kind, body in one.query(count) if kind == "D")
        for number in range(50):
            ask(one, b"s", b"SELECT %d" % number)
            one.send(encode.close_statement(b"s") + encode.sync())
            assert one.kinds_until() == "3Z"
        assert next(body for kind, body in one.query(count) if kind == "D") == before
        # A Close that is passed over closes nothing.
        assert ask(one, b"s", b"SELECT 7") == b"7"
        one.send(bind(b"", b"nobody") + encode.close_statement(b"s") + encode.sync())
        assert one.kinds_until() == "EZ"
        assert ask(one, b"s") == b"7"


@pytest.mark.parametrize("name", ["RESET TimeZone", "RESET ALL", "SET TimeZone TO DEFAULT", "DISCARD ALL"])
@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_reset_goes_back_to_the_startup_message_and_the_client_is_told(
    narrow_proxy: ProxyProcess, name: str, extended: bool, in_transaction: bool
) -> None:
    if in_transaction and name == "DISCARD ALL":
        name = "RESET TimeZone; SELECT 1" if not extended else "RESET TimeZone"
    with (
        RawClient(narrow_proxy.parameters, options="-c TimeZone=Asia/Tokyo -c work_mem=2MB") as one,
        RawClient(narrow_proxy.parameters) as two,
    ):
        told = {b"TimeZone": b"Asia/Tokyo"}

        def run(message: bytes, requests: int = 1) -> str:
            one.send(message)
            kinds = ""
            for _ in range(requests):
                for kind, body in one.read_until():
                    kinds += kind
                    if kind == "S":
                        parameter, value, _ = body.split(b"\0")
                        told[parameter] = value
            return kinds

        run(encode.query("SET TimeZone TO 'Europe/Rome'"))
        assert told[b"TimeZone"] == b"Europe/Rome"
        if in_transaction:
            run(encode.query("BEGIN"))
        text = name.encode()
        one_way = parse(b"", text) + bind() + execute() + encode.sync() if extended else encode.query(name)
        assert "E" not in run(one_way)
        one.send(encode.query("SHOW TimeZone"))
        answer = one.read_until()
        for kind, body in answer:
            if kind == "S":
                parameter, value, _ = body.split(b"\0")
                told[parameter] = value
        assert [body[6:] for kind, body in answer if kind == "D"] == [b"Asia/Tokyo"]
        assert told[b"TimeZone"] == b"Asia/Tokyo"
        if in_transaction:
            run(encode.query("ROLLBACK"))
            run(encode.query("SELECT 1"))
            assert told[b"TimeZone"] == b"Europe/Rome"
        shown = [body[6:] for kind, body in two.query("SHOW TimeZone") if kind == "D"]
        assert shown != [b"Asia/Tokyo"]
        assert [body[6:] for kind, body in two.query("SHOW work_mem") if kind == "D"] == [b"4MB"]
        assert [body[6:] for kind, body in one.query("SHOW work_mem") if kind == "D"] == [b"2MB"]
