"""One script that does everything a session can do, cut off after every message and at many bytes in between.

Whatever the last byte was, the next client finds a pristine session, and no slot of the pool is lost.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import psycopg
import pytest
from tests.proxy.adversity.helpers import assert_pristine, backend_pid, finish, reset
from tests.support.postgres import Database
from tests.support.proxy import StartProxy, eventually
from tests.support.rawclient import RawClient, bind, describe, execute, parse

from tidegate_proxy.protocol import encode, wire

SEED = 20
POOL_SIZE = 2


def copy_data(data: bytes) -> bytes:
    return encode.message(wire.COPY_DATA, data)


COPY_DONE = encode.message(wire.COPY_DONE)

SCRIPT = [
    encode.query("SELECT 1"),
    encode.query("CREATE TABLE IF NOT EXISTS shared (n int)"),
    parse(b"kept", b"SELECT $1::int"),
    bind(b"", b"kept", b"5"),
    describe(b"P", b""),
    execute(),
    encode.sync(),
    encode.query("BEGIN"),
    encode.query("INSERT INTO shared VALUES (1)"),
    parse(b"", b"INSERT INTO shared SELECT generate_series(1, 10) RETURNING n"),
    bind(b"portal"),
    execute(b"portal", 3),
    encode.flush(),
    execute(b"portal", 3),
    encode.sync(),
    encode.query("SELECT 1/0"),
    parse(b"late", b"SELECT 2"),
    encode.sync(),
    encode.query("ROLLBACK"),
    encode.query("SET work_mem TO '1234kB'"),
    encode.query("COPY shared FROM STDIN"),
    copy_data(b"1\n2\n"),
    copy_data(b"3\n"),
    COPY_DONE,
    parse(b"", b"COPY shared FROM STDIN"),
    bind(),
    execute(),
    encode.sync(),
    copy_data(b"4\n"),
    COPY_DONE,
    encode.sync(),
    encode.query("COPY shared TO STDOUT"),
    encode.query("CREATE TEMP TABLE mine (a int); INSERT INTO mine SELECT generate_series(1, 100)"),
    encode.query("SELECT pg_advisory_lock(4711), pg_advisory_lock_shared(12)"),
    encode.query("PREPARE mine AS SELECT 1"),
    encode.query("LISTEN mine"),
    encode.query("BEGIN; DECLARE mine CURSOR WITH HOLD FOR SELECT 1; SAVEPOINT s; SET LOCAL TimeZone TO 'Asia/Tokyo'"),
    encode.query("COMMIT"),
    encode.query("SET TimeZone TO 'Asia/Tokyo'; SET search_path TO pg_catalog"),
    encode.query("SET app.x TO 'mine'; SELECT set_config('role', session_user, false)"),
    encode.query("CREATE TYPE pg_temp.mine AS ENUM ('a'); CREATE TEMP SEQUENCE numbers; SELECT nextval('numbers')"),
    encode.query(
        "BEGIN; SET LOCAL search_path TO pg_temp; CREATE TABLE hidden (a int); DECLARE own CURSOR FOR SELECT 1"
    ),
    encode.query("COMMIT"),
    encode.close_statement(b"kept"),
    encode.sync(),
    encode.query("SELECT '" + "x" * 70_000 + "'"),
    encode.query("SELECT 2"),
]
WHOLE = b"".join(SCRIPT)
BOUNDARIES = list(itertools.accumulate(len(message) for message in SCRIPT))


def within_messages() -> list[int]:
    chooser = random.Random(SEED)
    small = [n for n in range(1, len(WHOLE)) if n not in BOUNDARIES and not BOUNDARIES[-3] < n < BOUNDARIES[-2] - 50]
    large = chooser.sample(range(BOUNDARIES[-3] + 10, BOUNDARIES[-2] - 50), 5)
    return sorted(chooser.sample(small, 60) + large)


@pytest.mark.parametrize("where", ["at message boundaries", "within messages"])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_script_cut_off_anywhere_leaves_nothing_behind(start_proxy: StartProxy, where: str, at_once: bool) -> None:
    proxy = start_proxy(default_pool_size=POOL_SIZE)
    with proxy.database.server.connect() as watcher:
        for cut in [0, *BOUNDARIES] if where == "at message boundaries" else within_messages():
            client = RawClient(proxy.parameters)
            client.send(WHOLE[:cut])
            if at_once:
                reset(client)
            else:
                # Else the end would overtake most of the script.
                eventually(lambda: wait_for_input(watcher, proxy.database), what="the end of the work")
                finish(client)
            with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as other:
                # Two transactions at once take every connection that the pool has.
                one.query("BEGIN")
                other.query("BEGIN")
                for fresh in (one, other):
                    fresh.query("ROLLBACK")
                    assert_pristine(fresh, f"after {cut} bytes")
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as other:
        for fresh in (one, other):
            fresh.query("BEGIN")
        assert backend_pid(one) != backend_pid(other)
        # One that was closed may still be on its way out.
        eventually(lambda: len(proxy.server_pids()) == POOL_SIZE, what="the pool's connections and no others")


def wait_for_input(watcher: psycopg.Connection[tuple[Any, ...]], database: Database) -> bool:
    """Whether every server connection of the test's user waits for its client."""
    row = watcher.execute(
        "SELECT coalesce(bool_and(wait_event = 'ClientRead'), true) FROM pg_stat_activity WHERE usename = %s",
        [database.user],
    ).fetchone()
    assert row is not None
    return bool(row[0])
