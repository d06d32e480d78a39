"""Hundreds of cold functions at once, each with a token of its own."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time

from tests.proxy.identity.iam.conftest import StartIamProxy, known_to, new_key, token_of
from tests.support.postgres import Database
from tests.support.slowdown import Slowdown

from tidegate_load.bench.wire import SSL_REQUEST, TERMINATE, WireClient, query
from tidegate_load.sts.server import StandInSts

CLIENTS = 500
AT_ONCE = 32

PROMISED = 5.0
"""Seconds until all have their row, on a machine that does nothing else; times its slowdown where it does. The requests
to STS alone take half a second."""


async def one_row(port: int, database: Database, token: str, context: ssl.SSLContext) -> str:
    """Connect, log in, get a row. Returns: what went wrong, or nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(SSL_REQUEST)
        assert await reader.readexactly(1) == b"S"
        await writer.start_tls(context)
        client = WireClient(token)
        writer.write(client.startup(database.user, database.name))
        while not (client.ready or client.error):
            data = await reader.read(65536)
            if not data:
                return "closed"
            writer.write(client.feed(data))
        if not client.error:
            client.ready = False
            writer.write(query("SELECT 1"))
            while not (client.ready or client.error):
                client.feed(await reader.read(65536))
        writer.write(TERMINATE)
        return client.error or ("" if client.rows == 1 else "no row")
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def test_500_clients_with_500_tokens_are_in_with_few_requests_at_a_time(
    start_iam_proxy: StartIamProxy, database: Database, sts: StandInSts, slowdown: Slowdown
) -> None:
    sts.delay = 0.03
    # Nobody shall be sent away in time for the promise.
    proxy = start_iam_proxy(user=database.user, iam={"sts_connections": AT_ONCE}, client_login_timeout=600)
    tokens = [token_of(known_to(sts, new_key())) for _ in range(CLIENTS)]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    async def storm() -> list[str]:
        return await asyncio.gather(*(one_row(proxy.port, database, token, context) for token in tokens))

    began = time.monotonic()
    assert [failure for failure in asyncio.run(storm()) if failure] == []
    ended = time.monotonic()
    assert ended - began <= PROMISED * slowdown.between(began, ended)
    assert sts.answers == {"ok": CLIENTS}
    assert sts.at_once <= AT_ONCE
    assert sts.connections <= AT_ONCE
