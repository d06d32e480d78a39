"""Prepared statements by the hundred, in pipelines that fail, across schema changes: as on PostgreSQL itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.proxy.console.helpers import command
from tests.proxy.session_state.mirror import Pair, Step, simple
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy
from tests.support.rawclient import RawClient, bind, describe, execute, parse

from tidegate_proxy.protocol import encode
from tidegate_proxy.settings import Settings

MAX_PREPARED: int = Settings.model_fields["max_prepared_statements"].default
MANY = 3 * MAX_PREPARED


def run(name: bytes) -> bytes:
    return bind(b"", name) + execute()


def numbers(client: RawClient, readies: int) -> list[int]:
    """The values of all rows that come."""
    found = []
    for _ in range(readies):
        for kind, body in client.read_until():
            assert kind != "E", body
            if kind == "D":
                found.append(int(body[6:]))
    return found


def prepared(proxy: ProxyProcess) -> int:
    """How many statements there are on the server connection that a client gets."""
    with RawClient(proxy.parameters) as client:
        row = next(body for kind, body in client.query("SELECT count(*) FROM pg_prepared_statements") if kind == "D")
        return int(row[6:])


@pytest.mark.parametrize("sync_after_each", [False, True])
def test_more_statements_in_one_pipeline_than_a_server_connection_keeps(
    narrow_proxy: ProxyProcess, sync_after_each: bool
) -> None:
    sync = encode.sync()
    each = sync if sync_after_each else b""
    readies = MANY + 1 if sync_after_each else 1
    names = [b"s%d" % n for n in range(MANY)]
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        for client, offset in ((one, 0), (two, MANY // 2)):
            messages = [parse(name, b"SELECT %d" % (n + offset)) + run(name) + each for n, name in enumerate(names)]
            client.send(b"".join(messages) + sync)
            assert numbers(client, readies) == [n + offset for n in range(MANY)]
        for client, offset in ((one, 0), (two, MANY // 2), (one, 0)):
            client.send(b"".join(run(name) + each for name in reversed(names)) + sync)
            assert numbers(client, readies) == [n + offset for n in reversed(range(MANY))]
    assert prepared(narrow_proxy) <= MAX_PREPARED


def test_thousands_of_statements_one_after_the_other(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        for client in (one, two):
            for start in range(0, 3000, 100):
                text = b"".join(parse(b"s%d" % n, b"SELECT %d" % n) for n in range(start, start + 100))
                client.send(text + run(b"s%d" % start) + encode.sync())
                assert numbers(client, 1) == [start]
        for n in (0, 1500, 2999, 7):
            for client in (one, two):
                client.send(run(b"s%d" % n) + encode.sync())
                assert numbers(client, 1) == [n]
    assert prepared(narrow_proxy) <= MAX_PREPARED


def test_as_many_as_the_setting_says_stay_and_it_changes_live(start_proxy: StartProxy, database: Database) -> None:
    proxy = start_proxy(default_pool_size=1, max_prepared_statements=3, admin_users=[database.user])
    names = [b"s%d" % n for n in range(10)]
    with RawClient(proxy.parameters) as one:

        def all_run() -> bool:
            one.send(b"".join(run(name) + encode.sync() for name in names))
            return numbers(one, len(names)) == list(range(len(names)))

        one.send(b"".join(parse(name, b"SELECT %d" % n) for n, name in enumerate(names)) + encode.sync())
        one.read_until()
        assert all_run()
        assert prepared(proxy) <= 3
        assert all_run()
        command(proxy, "SET max_prepared_statements = 8")
        assert all_run()
        assert 3 < prepared(proxy) <= 8
        command(proxy, "SET max_prepared_statements = 1")
        assert all_run()
        assert prepared(proxy) <= 1


@pytest.fixture
def mirrored(database: Database, start_proxy: StartProxy) -> Iterator[tuple[Pair, Pair, dict[str, Any]]]:
    """Two clients of one server connection with a mirror each, and how to get to the proxy's database around it."""
    proxy = start_proxy(default_pool_size=1)
    mirror = database.name + "_mirror"
    database.server.create_database(mirror, owner=database.user)
    direct = database.parameters | {"dbname": mirror}
    try:
        with Pair(proxy.parameters, direct) as one, Pair(proxy.parameters, direct) as two:
            yield one, two, database.parameters
    finally:
        with database.server.connect() as admin:
            admin.execute(f"DROP DATABASE {mirror} WITH (FORCE)")


def step(*messages: bytes, any_error: bool = False) -> Step:
    """One pipeline; each None is a Sync."""
    data = b"".join(messages) + encode.sync()
    return Step(repr(data), data, data.count(encode.sync()), any_error=any_error)


def test_schema_changes_through_the_proxy_and_around_it(mirrored: tuple[Pair, Pair, dict[str, Any]]) -> None:
    one, two, around = mirrored
    select, use = parse(b"s", b"SELECT * FROM t"), describe(b"S", b"s") + run(b"s")
    anew = encode.close_statement(b"s") + select
    with Pair(around, one.direct.client.parameters) as outside:
        two.run(simple("CREATE TABLE t (a int)"))
        one.run(step(select, use))
        for changer in (two, outside):
            changer.run(simple("ALTER TABLE t ADD b text"))
            # The server says that the plan is out of date; until then nobody knows of what was done around the proxy.
            one.run(step(use))
            one.run(step(use))
            one.run(step(anew, use))
            changer.run(simple("BEGIN; ALTER TABLE t ADD c text; ROLLBACK"))
            one.run(step(use))
            changer.run(simple("ALTER TABLE t DROP b"))
            if changer is outside:
                one.run(step(use))
            one.run(step(anew))
            one.run(step(use))
            changer.run(simple("DROP TABLE t"))
            one.run(step(use))
            changer.run(simple("CREATE TABLE t (a int)"))
            one.run(step(anew, use))


def test_a_statement_is_prepared_under_the_parameters_of_its_client(
    mirrored: tuple[Pair, Pair, dict[str, Any]],
) -> None:
    one, two, _ = mirrored
    text = b"SELECT '01/02/2003'::date::timestamp + '1 day'::interval, x FROM (SELECT 1 AS x) AS t"
    one.run(simple("SET DateStyle TO 'ISO, DMY'"))
    two.run(simple("SET DateStyle TO 'ISO, MDY'"))
    for pair in (one, two, one):
        pair.run(step(parse(b"s", text), run(b"s"), any_error=True))
        pair.run(step(run(b"s")))
    one.run(simple("CREATE SCHEMA a; CREATE TABLE a.t AS SELECT 'a' AS v; CREATE TABLE public.t AS SELECT 'p' AS v"))
    one.run(simple("SET search_path TO a"))
    for pair in (one, two, one, two):
        pair.run(step(parse(b"v", b"SELECT v FROM t"), run(b"v"), any_error=True))
        pair.run(step(run(b"v")))


def test_names_errors_and_ends_in_pipelines(mirrored: tuple[Pair, Pair, dict[str, Any]]) -> None:
    one, two, _ = mirrored
    sync = encode.sync()
    close = encode.close_statement(b"s")
    good, other, bad = parse(b"s", b"SELECT 1"), parse(b"s", b"SELECT 2"), parse(b"s", b"SELECT nothing")
    scripts = [
        [good, other, run(b"s")],
        [run(b"s"), close, other, run(b"s"), close, run(b"s")],
        [bad, run(b"s"), sync, run(b"s"), sync, good, run(b"s")],
        [close, bad, sync, run(b"s"), sync, other, sync, run(b"s")],
        [close, good, run(b"nobody"), close, sync, run(b"s")],
        [parse(b"", b"SELECT 3"), run(b""), bad, sync, run(b"")],
        [close, close, good, close, other, run(b"s")],
        [parse(b"", b"SELECT 1/0"), run(b""), good, sync, run(b"s"), sync, run(b"")],
    ]
    for script in scripts:
        for pair in (one, two):
            pair.run(step(*script, any_error=True))


@pytest.mark.parametrize(
    "text", ["DISCARD ALL", "DISCARD PLANS", "DISCARD TEMP", "DISCARD SEQUENCES", "DEALLOCATE ALL"]
)
def test_discards(mirrored: tuple[Pair, Pair, dict[str, Any]], text: str) -> None:
    one, two, _ = mirrored
    one.run(simple("CREATE SEQUENCE s"))
    for first, second in ((one, two), (two, one)):
        first.run(simple("CREATE TEMP TABLE t (a int); PREPARE p AS SELECT 1; SET work_mem TO '1234kB'; LISTEN c"))
        first.run(simple("SELECT nextval('s')"))
        first.run(step(parse(b"named", b"SELECT 5"), run(b"named")))
        first.run(simple(text))
        first.run(step(run(b"named"), any_error=True))
        for look in ("SELECT lastval()", "SHOW work_mem", "EXECUTE p", "SELECT * FROM t"):
            first.run(simple(look))
        first.run(simple("DISCARD ALL"))
        second.run(simple("SHOW work_mem"))
        second.run(simple("SELECT lastval()"))
    assert one.proxied.client.pid != two.proxied.client.pid


def test_statements_of_postgresqls_own_prepare(mirrored: tuple[Pair, Pair, dict[str, Any]]) -> None:
    one, two, _ = mirrored
    one.run(simple("PREPARE p (int) AS SELECT $1 + 1"))
    one.run(simple("EXECUTE p(1)"))
    one.run(step(bind(b"", b"p", b"41"), execute()))
    one.run(simple("DEALLOCATE p"))
    one.run(step(bind(b"", b"p", b"41"), execute()))
    one.run(simple("EXECUTE p(1)"))
    two.run(simple("EXECUTE p(1)"))
    two.run(step(parse(b"q", b"SELECT 7")))
    two.run(simple("EXECUTE q"))
    two.run(simple('EXECUTE "q"'))
    two.run(simple("DEALLOCATE PREPARE q"))
    two.run(simple("EXECUTE q"))
