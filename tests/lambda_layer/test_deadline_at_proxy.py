"""Tidegate's proxy is told the deadline of each transaction, in the text that begins it and so without a round trip."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from tests.lambda_layer.helpers import Context, connected
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess

import tidegate
from tidegate.connection import AsyncConnection, Connection

_BEGIN = re.compile(rb'\t(?:Query|Parse)\t.*"(BEGIN[^"]*)"')
_TOLD = re.compile(rb"(BEGIN[A-Z ]*) /\* tidegate\.deadline_ms=([1-9][0-9]{0,9}) \*/")


class Sent:
    """`begins`: the texts of what began a transaction; `round_trips`: how often the client spoke after the server."""

    def __init__(self) -> None:
        self.begins: list[bytes] = []
        self.round_trips = 0

    @property
    def told(self) -> list[tuple[bytes, int]]:
        """Each BEGIN and the milliseconds that it tells; fails if one tells none."""
        found = [_TOLD.fullmatch(begin) for begin in self.begins]
        assert all(found), self.begins
        return [(match[1], int(match[2])) for match in found if match]


@contextmanager
def traced(conn: psycopg.BaseConnection[Any]) -> Iterator[Sent]:
    """What the block sends, by libpq's own trace."""
    sent = Sent()
    fd = os.memfd_create("trace")
    try:
        conn.pgconn.trace(fd)
        yield sent
        conn.pgconn.untrace()
        lines = os.pread(fd, 1 << 20, 0).splitlines()
    finally:
        os.close(fd)
    sent.begins += [match[1] for line in lines if (match := _BEGIN.search(line))]
    speakers = "".join("F" if b"\tF\t" in line else "B" if b"\tB\t" in line else "" for line in lines)
    sent.round_trips = len(re.findall("F+", speakers))


def implicitly(conn: Connection) -> None:
    conn.execute("SELECT 1")
    conn.commit()


def in_a_block(conn: Connection) -> None:
    with conn.transaction():
        conn.execute("SELECT %s", (1,))


def in_a_block_in_autocommit_mode(conn: Connection) -> None:
    conn.autocommit = True
    in_a_block(conn)


def in_a_pipeline(conn: Connection) -> None:
    with conn.pipeline():
        conn.execute("SELECT 1")
    conn.commit()


@pytest.mark.parametrize("work", [implicitly, in_a_block, in_a_block_in_autocommit_mode, in_a_pipeline])
def test_each_begin_tells_it_whoever_sends_it(
    database: Database, proxy: ProxyProcess, work: Callable[[Connection], None]
) -> None:
    with (
        connected(database, port=proxy.port) as db,
        # Of Lambda's 30 seconds half of the margin of half a second is kept: the layer's own cancel comes before that.
        db.invocation(Context(30)),
        db.connection() as conn,
        traced(conn) as sent,
    ):
        work(conn)
    with (
        connected(database) as plain,
        plain.invocation(Context(30)),
        plain.connection() as conn,
        traced(conn) as alone,
    ):
        work(conn)
    [(begin, milliseconds)] = sent.told
    assert begin == b"BEGIN"
    assert 10_000 < milliseconds <= 29_750
    assert alone.begins == [b"BEGIN"]
    assert sent.round_trips == alone.round_trips


def test_it_names_the_invocations_request_and_nothing_that_is_no_name(database: Database, proxy: ProxyProcess) -> None:
    names = ["8cc4ff5b-1dd1-4a3b-8b8c-0123456789ab", "*/; DROP TABLE t", "a" * 65, ""]
    told = []
    with connected(database, port=proxy.port) as db:
        for name in names:
            with db.invocation(Context(30, name)), db.connection() as conn, traced(conn) as sent:
                implicitly(conn)
            told += sent.begins
    assert [b"request_id" in begin for begin in told] == [True, False, False, False]
    assert told[0].endswith(b",request_id=8cc4ff5b-1dd1-4a3b-8b8c-0123456789ab */")
    assert all(_TOLD.fullmatch(begin) for begin in told[1:])


def test_transaction_tells_what_is_left_in_each_run_and_keeps_isolation(
    database: Database, proxy: ProxyProcess
) -> None:
    runs: list[int] = []

    def work(conn: Connection) -> None:
        runs.append(1)
        if len(runs) == 1:
            raise psycopg.errors.SerializationFailure
        conn.execute("SELECT 1")

    with connected(database, port=proxy.port) as db, db.invocation(Context(30)):
        with db.connection() as conn:
            conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        with traced(conn) as sent:
            db.transaction(work)
    assert [begin for begin, _ in sent.told] == [b"BEGIN ISOLATION LEVEL SERIALIZABLE"] * 2
    first, second = (milliseconds for _, milliseconds in sent.told)
    assert 10_000 < second <= first <= 29_750


def test_asyncio_tells_it_too(database: Database, proxy: ProxyProcess) -> None:
    async def main() -> Sent:
        settings: dict[str, Any] = {**database.parameters, "sslmode": "disable", "port": proxy.port}
        db = tidegate.connect_async(**settings)

        async def work(conn: AsyncConnection) -> None:
            await conn.execute("SELECT 1")

        async with db.invocation(Context(30)):
            async with db.connection() as conn:
                pass
            with traced(conn) as sent:
                async with db.connection() as conn:
                    await work(conn)
                await db.transaction(work)
        db.close()
        return sent

    sent = asyncio.run(main())
    assert [begin for begin, _ in sent.told] == [b"BEGIN", b"BEGIN"]


def test_nothing_is_told_outside_invocations_or_where_deadlines_of_statements_are_off(
    database: Database, proxy: ProxyProcess
) -> None:
    with connected(database, port=proxy.port) as db, db.connection() as conn, traced(conn) as sent:
        implicitly(conn)
    with (
        connected(database, port=proxy.port, statement_deadline=False) as db,
        db.invocation(Context(30)),
        db.connection() as conn,
        traced(conn) as off,
    ):
        implicitly(conn)
    assert sent.begins == off.begins == [b"BEGIN"]
