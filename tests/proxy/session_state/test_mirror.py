"""Random scripts of several clients that share server connections: each client gets what PostgreSQL itself would give
to a session of its own, statement by statement."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.proxy.session_state.mirror import Pair, Step, simple
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually
from tests.support.rawclient import RawClient, bind, describe, execute, parse

from tidegate_proxy.protocol import encode

CLIENTS = 3

CARRIED = [
    "SET work_mem TO '1234kB'",
    "SET work_mem TO '77MB'",
    "SET work_mem TO DEFAULT",
    "RESET work_mem",
    "SET work_mem TO '5MB'; RESET work_mem",
    "RESET work_mem; SET work_mem TO '6MB'",
    "RESET ALL; SET work_mem TO '6MB'; SET app.x TO 'after'",
    "SET app.x TO 'a;b'",
    "SET app.x TO 'é\\'",
    "SET app.y TO ''",
    "RESET app.x",
    "RESET ALL",
    "SET TIME ZONE 'Asia/Tokyo'",
    "RESET TIME ZONE",
    "SET DateStyle TO 'German'",
    "SET DateStyle TO 'ISO'",
    "SET search_path TO a, public",
    "SET client_encoding TO 'LATIN1'",
    "SET NAMES 'UTF8'",
    "SET standard_conforming_strings TO off",
    "SET standard_conforming_strings TO on",
    "SET bytea_output TO 'escape'",
    "SET application_name TO 'mine'",
    "SET ROLE other_role",
    "RESET ROLE",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SELECT set_config('lock_timeout', '1234', false)",
    "SELECT set_config('lock_timeout', '4321', true)",
    "SELECT set_config('app.y', 'y', false), 1/0",
    "SET work_mem TO '8MB'; SELECT 1/0",
    "SET LOCAL work_mem TO '9MB'",
    "SET work_mem TO 'much'",
    "SET nonsense TO 1",
    "/* SET */ SELECT 1; -- ;\nSET lock_timeout TO '5s'",
]
HARMLESS = [
    "SELECT 1/0",
    "SELECT 'é', E'\\\\', 'back\\slash', now()::date < '31.12.2100'",
    "SELECT '\\x41'::bytea",
    "INSERT INTO public.notes VALUES ('SET app.x TO 1')",
    "SELECT 'SET work_mem TO 1; LISTEN c'",
    "SELECT count(*) >= 0 FROM public.notes",
    "",
]
TRANSACTION = ["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s", "ROLLBACK TO s", "RELEASE s"]
PINNING = [
    "LISTEN c",
    "UNLISTEN *",
    "CREATE TEMP TABLE t (a int)",
    "CREATE TEMP TABLE u ON COMMIT DROP AS SELECT 1 AS a",
    "DROP TABLE t",
    "PREPARE p AS SELECT current_setting('work_mem')",
    "EXECUTE p",
    "DEALLOCATE p",
    "DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 3)",
    "FETCH c",
    "CLOSE c",
    "DISCARD TEMP",
    "DISCARD SEQUENCES",
    "SELECT pg_advisory_unlock_all()",
    "SELECT currval('public.s')",
    "SELECT lastval()",
    "DO $$ BEGIN PERFORM set_config('work_mem', '3MB', false); END $$",
]
# Names of protocol-level statements in SQL that is no such statement itself: that is a limit.
BY_NAME = [
    "EXECUTE s1",
    "EXECUTE s2",
    "SELECT 'EXECUTE s1'; EXECUTE s2",
    "EXPLAIN (COSTS off) EXECUTE s1",
    "DEALLOCATE s1",
    "DEALLOCATE PREPARE s2; DEALLOCATE s1",
]
# In one transaction, so that the value never has to be carried.
NUMBERED = [
    "BEGIN; INSERT INTO public.numbered DEFAULT VALUES; SELECT lastval() = max(id) FROM public.numbered; COMMIT",
    (
        "INSERT INTO public.numbered DEFAULT VALUES;"
        " SELECT currval('public.numbered_id_seq') = max(id) FROM public.numbered"
    ),
    "WITH n AS (INSERT INTO public.numbered DEFAULT VALUES RETURNING id) SELECT id > 0 FROM n",
    "INSERT INTO public.numbered DEFAULT VALUES",
]
# Inside of an extended request, what frees names is only known afterwards: a limit.
FREEING = ["DEALLOCATE ALL", "DISCARD ALL"]
# Nobody knows whether a client that vanishes has still got a number.
NEXTVAL = "SELECT nextval('public.s')"
NAMES = [b"", b"s1", b"s2"]


def extended(sql: str, name: bytes = b"") -> bytes:
    """Parse, Bind, Describe and Execute."""
    return parse(name, sql.encode()) + bind(b"", name) + describe(b"P", b"") + execute()


@st.composite
def steps(draw: st.DrawFn, statements: list[str]) -> Step:
    """One step: a Query, several at once, or a pipeline of the extended protocol."""
    kinds = ["simple", "simple", "simple", "pipelined", "extended", "extended", "named", "named", "by name", "unsynced"]
    how = draw(st.sampled_from(kinds))
    statement = st.sampled_from(statements)
    if how == "by name":
        sql = draw(st.sampled_from(BY_NAME))
        if draw(st.booleans()) and ";" not in sql:
            return Step(f"extended {sql}", extended(sql) + encode.sync())
        return simple(sql)
    if how == "unsynced":
        return draw(unsynced(statements))
    if how in ("simple", "pipelined"):
        statement = st.sampled_from(statements + (FREEING if "UNLISTEN *" in statements else []))
    if how == "simple":
        return simple(draw(statement))
    if how == "pipelined":
        several = draw(st.lists(statement, min_size=2, max_size=3))
        return Step(" | ".join(several), b"".join(encode.query(sql.encode()) for sql in several), len(several))
    parts = []
    data = b""
    readies = 0
    for _ in range(draw(st.integers(1, 3))):
        if how == "extended":
            sql = draw(statement)
            parts.append(f"extended {sql}")
            data += extended(sql)
        else:
            name = draw(st.sampled_from(NAMES))
            kind = draw(st.sampled_from(["parse", "parse and run", "run", "run", "close"]))
            if kind.startswith("parse"):
                # Constants are read anew on another server connection, by the parameters of then: a limit.
                sql = draw(statement.filter(lambda sql: "\\" not in sql))
                parts.append(f"{kind} {name.decode()}: {sql}")
                data += parse(name, sql.encode())
            else:
                parts.append(f"{kind} {name.decode()}")
            if kind == "close":
                data += encode.close_statement(name)
            elif kind.endswith("run"):
                data += bind(b"", name) + execute()
        if draw(st.booleans()):
            data += encode.sync()
            parts.append("Sync")
            readies += 1
    return Step(" | ".join([*parts, "Sync"]), data + encode.sync(), readies + 1, any_error=how == "named")


@st.composite
def unsynced(draw: st.DrawFn, statements: list[str]) -> Step:
    """Simple queries among extended-protocol messages without a Sync.

    Within a transaction block: outside of one PostgreSQL 18 itself gets confused ("unexpected state STARTED").
    """
    # An empty query shows the end, and a COMMIT would end the block.
    inside = st.sampled_from([sql for sql in statements if sql and sql not in TRANSACTION])
    parts = ["BEGIN"]
    data = encode.query("BEGIN")
    for _ in range(draw(st.integers(2, 4))):
        sql = draw(inside)
        how = draw(st.sampled_from(["simple", "extended", "parse"]))
        parts.append(f"{how} {sql}")
        data += {"simple": encode.query(sql), "extended": extended(sql), "parse": parse(b"", sql.encode())}[how]
    return Step(" | ".join(parts), data, readies=0)


@pytest.fixture
def twins(database: Database) -> Iterator[tuple[Database, dict[str, Any]]]:
    """Two databases with the same content: one for the proxy, one for the mirrors."""
    with database.server.connect() as admin:
        if admin.execute("SELECT FROM pg_roles WHERE rolname = 'other_role'").fetchone() is None:
            admin.execute("CREATE ROLE other_role")
        admin.execute(f"GRANT other_role TO {database.user}")
    mirror = database.name + "_mirror"
    database.server.create_database(mirror, owner=database.user)
    try:
        direct = database.parameters | {"dbname": mirror}
        for parameters in (database.parameters, direct):
            with Pair(parameters, parameters) as pair:
                pair.proxied.run(simple("CREATE TABLE notes (note text); CREATE SEQUENCE s"))
                pair.proxied.run(simple("CREATE TABLE numbered (id serial)"))
                pair.proxied.run(simple("GRANT ALL ON ALL TABLES IN SCHEMA public TO public"))
                pair.proxied.run(simple("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO public"))
        yield database, direct
    finally:
        with database.server.connect() as admin:
            admin.execute(f"DROP DATABASE {mirror} WITH (FORCE)")
            admin.execute(f"REVOKE other_role FROM {database.user}")


def run_script(
    data: st.DataObject, twins: tuple[dict[str, Any], dict[str, Any]], statements: list[str], *, by_turns: bool
) -> None:
    """Several clients in turn; `by_turns` only between transactions, because they share one server connection."""
    proxied, direct = twins
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(Pair(proxied, direct)) for _ in range(CLIENTS)]
        for _ in range(data.draw(st.integers(4, 16))):
            number = data.draw(st.integers(0, CLIENTS - 1))
            pair = pairs[number]
            if data.draw(st.integers(0, 14)) == 0:
                # In the midst of something.
                last = data.draw(steps(statements))
                pair.proxied.client.send(last.data)
                pair.close()
                pairs[number] = stack.enter_context(Pair(proxied, direct))
                continue
            pair.run(data.draw(steps(statements if by_turns else [*statements, NEXTVAL])))
            while by_turns and pair.in_transaction:
                end = st.sampled_from(["COMMIT", "ROLLBACK"]).map(simple)
                pair.run(data.draw(st.one_of(steps(statements), steps(statements), end)))


def know_that_sequences_are_read(proxy: ProxyProcess) -> None:
    """The first lastval of all in a pool may be refused, if it comes in the midst of a request."""
    with RawClient(proxy.parameters) as first:
        assert first.query("SELECT lastval()")[0][0] in "TE"


deterministic = settings(
    derandomize=True, database=None, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck)
)


def test_clients_of_one_server_connection(twins: tuple[Database, dict[str, Any]], start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1)
    know_that_sequences_are_read(proxy)

    @deterministic
    @given(st.data())
    def check(data: st.DataObject) -> None:
        run_script(data, (proxy.parameters, twins[1]), CARRIED + HARMLESS + NUMBERED + TRANSACTION, by_turns=True)

    check()
    assert "pinned" not in proxy.log


@pytest.mark.parametrize("session_check", ["suspect", "always"])
def test_clients_that_pin(twins: tuple[Database, dict[str, Any]], start_proxy: StartProxy, session_check: str) -> None:
    proxy = start_proxy(default_pool_size=CLIENTS, session_check=session_check)
    know_that_sequences_are_read(proxy)

    @deterministic
    @given(st.data())
    def check(data: st.DataObject) -> None:
        statements = CARRIED + HARMLESS + NUMBERED + TRANSACTION + 2 * PINNING
        run_script(data, (proxy.parameters, twins[1]), statements, by_turns=False)

    check()
    eventually(lambda: "pinned to its server connection" in proxy.log)
