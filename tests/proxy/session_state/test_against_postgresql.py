"""Each script's answers and values through the proxy are those of PostgreSQL."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.proxy import ProxyProcess, StartProxy
from tests.support.rawclient import RawClient, bind, describe, execute, parse

from tidegate_proxy.protocol import encode, wire
from tidegate_proxy.protocol.decode import parse_error_fields

Q, S = encode.query, encode.sync()
# What no script has, and what leaves transactions and unnamed statements as they are.
END = encode.copy_fail("end") + S + encode.close_statement(b"end") * 3 + S
LOOK = Q("SELECT current_setting('work_mem')")
CLOSE = encode.close_statement(b"")
DONE = encode.message(wire.COPY_DONE, b"")
BAD = encode.message(wire.COPY_DATA, b"no number\n")
SET = Q("SET work_mem TO '77MB'")
NOBODY = bind(b"", b"nobody")
"""An error."""
LONG = b"SELECT 2 /*" + b"x" * 2_000_000 + b"*/"
CLOSE_PORTAL = encode.message(wire.CLOSE, b"P\0")


def run(sql: bytes) -> bytes:
    return parse(b"", sql) + bind() + execute()


SCRIPTS = {
    "extended RESET skipped": [SET, run(b"SELECT 1/0") + run(b"RESET ALL") + S, LOOK],
    "RESET in a failing Query": [SET, Q("RESET work_mem; SELECT 1/0"), LOOK],
    "RESET behind the error in a Query": [SET, Q("SELECT 1/0; RESET work_mem"), LOOK],
    "RESET rolled back in its Query": [SET, Q("BEGIN; RESET work_mem; ROLLBACK"), LOOK],
    "RESET rolled back to a savepoint": [
        SET,
        Q("BEGIN; SAVEPOINT a; RESET work_mem; ROLLBACK TO a"),
        LOOK,
        Q("COMMIT"),
        LOOK,
    ],
    "RESET passed over": [SET, run(b"SELECT 1/0") + Q("RESET ALL") + S, run(b"SELECT 1") + S, LOOK],
    "RESET bound, not executed": [SET, parse(b"r", b"RESET work_mem") + bind(b"", b"r") + S, LOOK],
    "RESET, then SET LOCAL, in one request": [
        Q("BEGIN"),
        run(b"RESET ALL") + run(b"SET LOCAL work_mem TO '9MB'") + S,
        LOOK,
    ],
    "RESET behind Close, then SET LOCAL": [
        CLOSE + Q("RESET work_mem"),
        LOOK,
        Q("BEGIN"),
        Q("SET LOCAL work_mem TO '9MB'"),
        run(b"SELECT 1") + S,
        LOOK,
    ],
    "RESET, then COPY, in one Query": [Q("RESET work_mem; COPY ints FROM STDIN") + DONE, LOOK],
    "RESET, then COPY, in one request": [run(b"RESET work_mem") + run(b"COPY ints FROM STDIN") + DONE + S, LOOK],
    "Execute behind a failed Query": [run(b"SELECT 1") + Q("SELECT nonsense") + execute() + S],
    "Describe and Flush behind a failed Query": [
        CLOSE + Q("SELECT nonsense") + describe(b"P", b"") + encode.flush() + S
    ],
    "two COPY at once": [(run(b"COPY ints FROM STDIN") + DONE + S) * 2],
    "unnamed statement behind a Query passed over": [run(b"SELECT 1/0") + Q("SELECT 1") + S + bind() + S],
    "unnamed statement skipped before a Query passed over": [
        run(b"SELECT 1/0") + parse(b"", b"INSERT INTO ints VALUES (1)") + Q("SELECT 1") + S + bind() + execute() + S,
        Q("SELECT count(*) FROM ints"),
    ],
    "bad COPY data, then a Query": [run(b"COPY ints FROM STDIN") + BAD + Q("SELECT 1") + S, Q("SELECT 2")],
    "bad COPY data, then two": [run(b"COPY ints FROM STDIN") + BAD + Q("SELECT 1") + Q("SELECT 2") + S, Q("SELECT 3")],
    "bad COPY data, then a Query, in a Query": [CLOSE + Q("COPY ints FROM STDIN") + BAD + DONE, Q("SELECT 2")],
    "CopyDone ahead of time": [
        parse(b"k", b"COPY ints FROM STDIN") + S,
        Q("SELECT 1") + bind(b"", b"k") + execute() + DONE + S,
        Q("SELECT 2"),
    ],
    "Parse in a failed transaction": [
        parse(b"s", b"SELECT 1") + S,
        Q("BEGIN"),
        Q("SELECT 1/0"),
        parse(b"t", b"SELECT 1") + S,
        parse(b"s", b"SELECT 1") + S,
        Q("ROLLBACK"),
        parse(b"t", b"SELECT 1") + bind(b"", b"t") + execute() + S,
    ],
    "DEALLOCATE ALL, then Parse, in one request": [
        parse(b"r", b"SELECT 1") + S,
        run(b"DEALLOCATE ALL") + parse(b"s", b"SELECT 1") + parse(b"t", b"SELECT 2") + S,
        bind(b"", b"s") + execute() + bind(b"", b"t") + execute() + S,
        bind(b"", b"r") + execute() + S,
    ],
    "DISCARD ALL, then Parse, in one request": [
        parse(b"r", b"SELECT 1") + S,
        run(b"SELECT 1") + S + run(b"DISCARD ALL") + parse(b"s", b"SELECT 1") + parse(b"t", b"SELECT 2") + S,
        bind(b"", b"s") + execute() + bind(b"", b"t") + execute() + S,
    ],
    "EXECUTE of a Parse that is skipped": [bind(b"", b"nobody") + parse(b"s", b"SELECT 1") + S + Q("EXECUTE s")],
    "unnamed Parse that fails, and one behind it": [
        parse(b"", b"SELECT 1") + S,
        parse(b"", b"SELECT nonsense") + S + parse(b"", b"SELECT 2") + S,
        bind() + execute() + S,
    ],
    "unnamed Parse that is skipped, and a Bind in the next request": [
        parse(b"", b"SELECT 1") + S,
        run(b"SELECT 1/0") + parse(b"", b"SELECT 2") + S + bind() + execute() + S,
        parse(b"", b"SELECT 3") + S + bind() + execute() + S,
    ],
    "unnamed statements in a pipeline": [(run(b"SELECT 1") + S + run(b"SELECT 2") + S) * 3, bind() + execute() + S],
    "unnamed statement described, closed, and run": [
        parse(b"", b"SELECT 1") + describe(b"S", b"") + bind() + describe(b"P", b"") + execute() + S,
        CLOSE + S,
        bind() + S,
    ],
    "unnamed statements in a failed transaction": [
        run(b"BEGIN") + S,
        run(b"SELECT 1/0") + S,
        run(b"SELECT 1") + S,
        run(b"ROLLBACK") + S,
        run(b"SELECT 1") + S,
    ],
    "unnamed statement destroyed by a Query": [parse(b"", b"SELECT 1") + S, Q("SELECT 2"), bind() + S],
    "unnamed statement behind DEALLOCATE ALL": [parse(b"", b"SELECT 1") + S, run(b"DEALLOCATE ALL") + S, bind() + S],
    "unnamed statement of a table that changes": [
        Q("CREATE TABLE changing AS SELECT 1 AS one"),
        run(b"SELECT * FROM changing") + S,
        run(b"SELECT * FROM changing") + S,
        Q("ALTER TABLE changing ADD two int"),
        run(b"SELECT * FROM changing") + S,
        Q("DROP TABLE changing"),
        run(b"SELECT * FROM changing") + S,
    ],
    "unnamed statement behind a refused one": [
        parse(b"", b"SELECT 1") + S,
        parse(b"", b"SELECT nonsense") + S,
        bind() + execute() + S,
    ],
    "the same unnamed statement again and again": [
        run(b"SELECT 1") + S,
        *[run(b"SELECT 2") + S] * 4,
        bind() + execute() + S,
        run(b"SELECT 1/0") + parse(b"", b"SELECT 2") + S,
        bind() + execute() + S,
        parse(b"", b"SELECT 1") + S,
        bind() + execute() + S,
    ],
    "the same unnamed statement, skipped and not, in a pipeline": [
        parse(b"", b"SELECT 1") + S,
        (run(b"SELECT 2") + S) * 3 + run(b"SELECT 1/0") + parse(b"", b"SELECT 2") * 3 + S + bind() + execute() + S,
        *[(run(b"SELECT 2") + S) * 3, parse(b"", b"SELECT 3") + S + bind() + execute() + S] * 2,
    ],
    "the same unnamed statement in a failed transaction": [
        parse(b"", b"SELECT 1") + S,
        Q("BEGIN; SAVEPOINT a"),
        (run(b"SELECT 2/0") + S) * 4,
        bind() + execute() + S,
        Q("ROLLBACK TO a"),
        (run(b"SELECT 2") + S) * 4,
        bind() + execute() + S,
        Q("COMMIT"),
    ],
    "the same unnamed statement, of which none is understood": [
        parse(b"", b"SELECT 1") + S,
        (parse(b"", b"SELECT nonsense") + S) * 4,
        bind() + execute() + S,
        run(b"SELECT 1") + S,
    ],
    "unnamed Parse that is skipped, prepared again and skipped": [
        parse(b"", b"SELECT 'mine'") + S,
        parse(b"a", b"SELECT 1") + S,
        parse(b"b", b"SELECT 1") + NOBODY + bind() + execute() + S + bind() + execute() + S,
    ],
    "Close that is skipped, and an unnamed Parse": [
        parse(b"", b"SELECT 'old'") + NOBODY + CLOSE + S + parse(b"", b"SELECT 'new'") + S,
        bind() + execute() + S,
    ],
    "Close that is skipped, and a Bind": [parse(b"", b"SELECT 1") + S + NOBODY + CLOSE + S + bind() + execute() + S],
    "unnamed Parses that are skipped in two requests": [
        parse(b"", b"SELECT 'zero'") + S,
        NOBODY + parse(b"", b"SELECT 'one'") + S + NOBODY + parse(b"", b"SELECT 'two'") + S,
        bind() + execute() + S,
    ],
    "unnamed Parse that is refused, and one that is skipped": [
        parse(b"rb", b"ROLLBACK") + S,
        Q("BEGIN"),
        Q("SELECT 1/0"),
        parse(b"", b"INSERT INTO ints VALUES (1)") + S + NOBODY + parse(b"", b"SELECT 3") + S,
        bind(b"", b"rb") + execute() + S,
        bind() + execute() + S,
        Q("SELECT count(*) FROM ints"),
    ],
    "unnamed Parse of what is gone, again and again": [
        Q("CREATE TABLE gone (n int)"),
        parse(b"d", b"DROP TABLE gone") + S,
        bind(b"", b"d") + S,
        parse(b"", b"SELECT * FROM gone") + S,
        CLOSE_PORTAL + parse(b"", b"SELECT * FROM gone") + S,
        bind(b"", b"d") + execute() + S,
        parse(b"", b"SELECT * FROM gone") + S,
        bind() + execute() + S,
    ],
    "unnamed EXECUTE, bound in a later transaction": [
        parse(b"s", b"SELECT 1") + S,
        parse(b"", b"EXECUTE s") + S,
        bind() + execute() + S,
        bind() + execute() + S,
    ],
    "unnamed DEALLOCATE, bound in a later request": [
        parse(b"s", b"SELECT 1") + S,
        Q("BEGIN"),
        parse(b"", b"DEALLOCATE s") + S,
        bind() + execute() + S,
        bind(b"", b"s") + S,
        Q("ROLLBACK"),
        parse(b"s", b"SELECT 2") + S,
        bind(b"", b"s") + execute() + S,
    ],
    "long unnamed Parse, and one that is skipped": [
        parse(b"", b"SELECT 1") + S + parse(b"", LONG) + S,
        bind() + execute() + S,
        NOBODY + parse(b"", LONG) + S,
    ],
    "unnamed Parse behind COPY that fails": [
        parse(b"", b"SELECT 5") + S,
        run(b"COPY ints FROM STDIN") + S + BAD + parse(b"", b"SELECT 1") + S,
        bind() + S,
    ],
    **{
        f"unnamed Parse that is refused behind {what}": [
            parse(b"", b"INSERT INTO ints VALUES (1)") + S,
            message + parse(b"", b"SELECT nonsense") + S,
            bind() + execute() + S,
            Q("SELECT count(*) FROM ints"),
        ]
        for what, message in {
            "Close": encode.close_statement(b"old"),
            "Close of a portal": CLOSE_PORTAL,
            "another Parse": parse(b"n", b"SELECT 1"),
        }.items()
    },
    "no unnamed statement in a savepoint": [
        parse(b"s", b"SELECT 1") + S,
        Q("BEGIN; SAVEPOINT a"),
        bind() + S,
        Q("ROLLBACK TO a"),
        bind(b"", b"s") + execute() + S,
        Q("COMMIT"),
    ],
}


def answers(client: RawClient, script: list[bytes]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for request in script:
        client.send(request + END)
        kinds = ""
        while not kinds.endswith("333Z"):
            kind, body = client.read()
            if kind != "S":
                kinds += kind
                found.append(
                    (kind, parse_error_fields(body)["C"] if kind == "E" else repr(body) if kind in "DCZ" else "")
                )
    return found


@pytest.mark.parametrize("name", SCRIPTS)
def test_as_on_postgresql_where_unnamed_statements_are_reused(start_proxy: StartProxy, name: str) -> None:
    proxy = start_proxy(default_pool_size=1, reuse_unnamed_statements_after=1)
    for _ in range(3):
        with RawClient(proxy.database.parameters) as direct, RawClient(proxy.parameters) as one:
            direct.query("DROP TABLE IF EXISTS ints; CREATE TABLE ints (n int)")
            assert answers(one, SCRIPTS[name]) == answers(direct, SCRIPTS[name])


@pytest.mark.parametrize("name", SCRIPTS)
def test_as_on_postgresql(narrow_proxy: ProxyProcess, name: str) -> None:
    options = "-c work_mem=2MB"
    with (
        RawClient(narrow_proxy.database.parameters, options=options) as direct,
        RawClient(narrow_proxy.parameters, options=options) as one,
    ):
        direct.query("CREATE TABLE ints (n int)")
        assert answers(one, SCRIPTS[name]) == answers(direct, SCRIPTS[name])
    with RawClient(narrow_proxy.parameters) as two:
        assert ("D", b"\0\x01\0\0\0\x034MB") in two.query("SHOW work_mem")


# Statements that a random script runs by name, so that its own Parse and Close messages are all of the unnamed one.
NAMED = {b"begin": b"BEGIN", b"rollback": b"ROLLBACK", b"error": b"SELECT 1/0", b"fine": b"SELECT 11"}
PIECES = {
    **{sql: parse(b"", sql.encode()) for sql in ("SELECT 1", "SELECT 2", "SHOW work_mem")},
    **{name.decode(): bind(b"", name) + execute() for name in NAMED},
    "run": bind() + execute(),
    "close": CLOSE,
    "flush": encode.flush(),
    "prepare n": parse(b"n", b"SELECT 3"),
    "run n": bind(b"", b"n") + execute(),
    "close n": encode.close_statement(b"n"),
    "sync": S,
}
REFUSED = ("SELECT nonsense", parse(b"", b"SELECT nonsense") + S)
"""Not behind a Bind: whose the error is then, the proxy does not know (docs/session_state.md)."""
REQUESTS = st.one_of(
    st.just(REFUSED),
    st.sampled_from(["SELECT 5", "BEGIN", "ROLLBACK", "EXECUTE fine"]).map(lambda sql: (sql, Q(sql))),
    st.lists(st.sampled_from(sorted(PIECES)), min_size=1, max_size=9).map(
        lambda names: (", ".join(names), b"".join(PIECES[name] for name in names) + S)
    ),
)


@pytest.mark.parametrize("after", [0, 1])
@settings(derandomize=True, database=None, deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(script=st.lists(REQUESTS, min_size=2, max_size=7))
def test_random_pipelines_are_as_on_postgresql(
    pipeline_proxies: dict[int, ProxyProcess], after: int, script: list[tuple[str, bytes]]
) -> None:
    proxy = pipeline_proxies[after]
    prepare = b"".join(parse(name, sql) for name, sql in NAMED.items()) + S
    messages = [prepare, *(message for _, message in script), Q("ROLLBACK")]
    with (
        RawClient(proxy.database.parameters) as direct,
        RawClient(proxy.parameters) as one,
        RawClient(proxy.parameters),
    ):
        assert answers(one, messages) == answers(direct, messages)


@pytest.fixture
def pipeline_proxies(start_proxy: StartProxy) -> dict[int, ProxyProcess]:
    """By how often an unnamed statement comes before it is prepared for all."""
    return {after: start_proxy(default_pool_size=2, reuse_unnamed_statements_after=after) for after in (0, 1)}


@pytest.mark.parametrize("text", [b"SELECT 'of one'", LONG])
def test_nobody_runs_another_clients_unnamed_statement(narrow_proxy: ProxyProcess, text: bytes) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        two.send(parse(b"", b"SELECT 'of two'") + S)
        two.read_until()
        one.send(NOBODY + parse(b"", text) + S + bind() + execute() + S)
        assert one.kinds_until() == "EZ"
        assert one.error_until("E")["C"] == "26000"


SLOW = b"SELECT n, repeat('x', 9000), CASE WHEN n = 3 THEN pg_sleep(1) END, 1 / (4 - n) FROM generate_series(1, 5) n"


def bound_after_the_skipped(client: RawClient) -> str:
    for _ in range(3):
        client.send(parse(b"", SLOW) + S)
        client.read_until()
    client.send(run(SLOW))
    kinds = client.kinds_until("D")
    # While its rows are coming, and before it fails.
    client.send(parse(b"", SLOW) + S)
    kinds += client.kinds_until()
    client.send(bind() + S)
    return kinds + client.kinds_until()


def test_a_parse_that_is_skipped_behind_a_late_error_takes_nothing_away(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.database.parameters) as direct, RawClient(narrow_proxy.parameters) as one:
        assert bound_after_the_skipped(one) == bound_after_the_skipped(direct)


def test_who_vanishes_after_a_bind_of_nothing_leaves_statements_usable(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as two:
        two.send(parse(b"s", b"SELECT 1") + S)
        two.read_until()
        with RawClient(narrow_proxy.parameters) as one:
            one.query("BEGIN")
            one.send(bind() + S)
            one.read_until()
        two.send(bind(b"", b"s") + execute() + S)
        assert two.kinds_until() == "2DCZ"


@pytest.mark.parametrize(
    "taken", ["WITH n AS (INSERT INTO t DEFAULT VALUES RETURNING id) SELECT id FROM n", "UPDATE t SET id = DEFAULT"]
)
def test_numbers_taken_out_of_sight(narrow_proxy: ProxyProcess, taken: str) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("CREATE TABLE t (id serial); INSERT INTO t DEFAULT VALUES")
        two.query("SELECT 1")
        one.query(taken)
        # Behind another statement of the same request, and with nothing known of the pool: not even an answer is safe.
        two.send(run(b"SELECT 1") + run(b"SELECT lastval()") + S)
        assert two.error_until("E")["C"] == "55000"
    with RawClient(narrow_proxy.parameters) as three:
        three.send(run(b"SELECT 1") + run(b"SELECT lastval()") + S)
        assert three.error_until()["C"] == "55000"


HIDDEN = "CREATE FUNCTION hidden() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('s') $$"


@pytest.mark.parametrize(
    "script",
    [
        ["BEGIN", "SELECT 1/0", "ROLLBACK; SELECT lastval()"],
        ["BEGIN; SAVEPOINT a", "SELECT 1/0", "ROLLBACK TO a; SELECT lastval()"],
        ["BEGIN", "INSERT INTO ints VALUES (1)", "SELECT lastval()"],
        ["INSERT INTO ints VALUES (1)", "SELECT lastval()"],
        ["SELECT nextval('mine')", "SELECT currval('s')"],
        ["BEGIN", "INSERT INTO ints VALUES (1)", "SELECT nextval('mine')", "SELECT currval('s')"],
        ["BEGIN", "SELECT setval('mine', 5, false); SELECT lastval()"],
    ],
)
@pytest.mark.parametrize("between", [False, True])
def test_numbers_that_a_function_took_are_never_anothers(
    narrow_proxy: ProxyProcess, script: list[str], between: bool
) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query(f"CREATE SEQUENCE s; CREATE SEQUENCE mine; CREATE TABLE ints (n int); {HIDDEN}")
        one.query("SELECT hidden()")
        if between:
            two.query("SELECT 1")
        for statement in script[:-1]:
            two.query(statement)
        two.send(Q(script[-1]))
        assert two.error_until("E")["C"] == "55000"


@pytest.mark.parametrize("end", [b"ROLLBACK", b"ROLLBACK TO a"])
def test_numbers_behind_the_end_of_a_failed_transaction(narrow_proxy: ProxyProcess, end: bytes) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query(f"CREATE SEQUENCE s; {HIDDEN}")
        one.query("SELECT hidden()")
        two.query("BEGIN; SAVEPOINT a")
        two.query("SELECT 1/0")
        two.send(run(end) + run(b"SELECT lastval()") + S)
        assert two.error_until("E")["C"] == "55000"


def test_numbers_discarded_on_another_server_connection_stay_discarded(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=2)
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        one.query(f"CREATE SEQUENCE s; {HIDDEN}")
        one.query("SELECT hidden()")
        two.query("BEGIN")
        one.query("DISCARD SEQUENCES")
        one.query("BEGIN")
        two.query("COMMIT")
        one.query("COMMIT")
        for _ in range(2):
            one.send(Q("SELECT lastval()"))
            assert one.error_until()["C"] == "55000"
            two.query("BEGIN")


@pytest.mark.parametrize("cut", [9, 10, 11])
def test_the_probe_waits_for_the_end_of_a_message(narrow_proxy: ProxyProcess, cut: int) -> None:
    late = encode.copy_fail("late")
    with RawClient(narrow_proxy.parameters) as one:
        one.send(describe(b"S", b"nobody") + Q("SELECT 1") + late[:cut])
        assert one.read()[0] == "E"
        one.send(late[cut:] + S + Q("SELECT 2"))
        assert one.kinds_until() == "Z"
        assert one.kinds_until() == "TDCZ"


def test_a_query_in_the_midst_of_copy_waits_for_a_later_sync(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one:
        one.query("CREATE TABLE ints (n int)")
        one.send(run(b"COPY ints FROM STDIN") + BAD + Q("SELECT 1"))
        assert one.kinds_until("E") == "12GE"
        one.send(S + Q("SELECT 2"))
        assert [one.kinds_until(), one.kinds_until()] == ["Z", "TDCZ"]
