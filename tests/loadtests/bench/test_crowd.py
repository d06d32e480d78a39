"""The cheap client: it logs in like any other, and says what went wrong."""

from __future__ import annotations

import asyncio

from tidegate_load.bench.crowd import Crowd
from tidegate_load.bench.stage import DATABASE, USER, Stage
from tidegate_load.bench.wire import WireClient, message


def test_every_client_of_a_crowd_gets_its_row(stage: Stage) -> None:
    async def go() -> None:
        async with Crowd(stage, stage.parameters(), 5) as crowd:
            await crowd.connect(at_once=2)
            assert crowd.errors == []
            assert len(await crowd.query()) == 5
            assert len(await crowd.query("SELECT 2")) == 5

    asyncio.run(go())


def test_clients_that_fail_are_counted_and_not_timed(stage: Stage) -> None:
    async def go() -> None:
        async with Crowd(stage, stage.parameters(), 3) as crowd:
            await crowd.connect()
            assert await crowd.query("SELECT 1/0") == []
            assert crowd.errors == ["division by zero"] * 3

    asyncio.run(go())


def test_nobody_listens(stage: Stage) -> None:
    async def go() -> list[str]:
        async with Crowd(stage, stage.parameters(port=1), 2) as crowd:
            assert await crowd.storm() == []
            return crowd.errors

    assert len(asyncio.run(go())) == 2


def test_tls_that_the_server_refuses_is_an_error(stage: Stage) -> None:
    async def go() -> list[str]:
        async with Crowd(stage, stage.parameters(sslmode="require"), 1) as crowd:
            await crowd.connect()
            return crowd.errors

    assert asyncio.run(go()) == ["the server refused TLS"]


def test_messages_may_come_in_any_pieces() -> None:
    data = message(b"D", b"\0\1\0\0\0\1x") * 2 + message(b"C", b"SELECT 2\0") + message(b"Z", b"I")
    client = WireClient("")
    for byte in data:
        assert client.feed(bytes([byte])) == b""
    assert (client.rows, client.ready, client.error) == (2, True, "")


def test_an_error_message_keeps_its_text() -> None:
    client = WireClient("")
    client.feed(message(b"E", b"SERROR\0C22012\0Mdivision by zero\0\0"))
    assert client.error == "division by zero"


def test_the_startup_message_names_user_and_database() -> None:
    startup = WireClient.startup(USER, DATABASE)
    assert int.from_bytes(startup[:4]) == len(startup)
    assert startup.endswith(b"user\0bench\0database\0bench\0\0")
