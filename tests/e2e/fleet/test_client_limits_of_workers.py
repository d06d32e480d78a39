"""Limits of clients hold for all workers together, however the kernel deals out connections."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

import psycopg
import pytest
from tests.e2e.fleet.conftest import StartMember
from tests.e2e.fleet.test_console_of_workers import CLIENTS, workers_with
from tests.e2e.fleet.test_workers import TIMEOUT, listening, workers_of
from tests.proxy.console.helpers import command
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually


def connected(proxy: ProxyProcess) -> psycopg.Connection[tuple[Any, ...]] | None:
    """A client, or None while there are too many."""
    try:
        return proxy.connect()
    except psycopg.OperationalError as error:
        if "too many" not in str(error):
            raise
        return None


@pytest.mark.parametrize(
    "setting",
    ["max_client_conn", "max_client_conn_per_source", "max_db_client_connections", "max_user_client_connections"],
)
def test_workers_have_no_more_clients_together_than_one_may(
    start_member: StartMember, database: Database, setting: str
) -> None:
    proxy = start_member(fleet=False, workers=3, admin_users=[database.user], **{setting: CLIENTS})
    proxy.allowed_in_log.append(" ERROR tidegate_proxy.workers")
    eventually(lambda: listening(proxy) == 3, timeout=TIMEOUT)
    with contextlib.ExitStack() as stack:

        def connect() -> psycopg.Connection[tuple[Any, ...]]:
            # A place is free when the proxy has seen its client go.
            return stack.enter_context(eventually(lambda: connected(proxy), timeout=TIMEOUT, what="a place"))

        clients = [connect() for _ in range(CLIENTS)]
        assert workers_with(clients) > 1
        assert [connected(proxy) for _ in range(CLIENTS)] == [None] * CLIENTS
        clients.pop().close()
        clients.append(connect())
        assert connected(proxy) is None
        # The clients of one that dies have gone.
        os.kill(workers_of(proxy)[1], signal.SIGKILL)
        eventually(lambda: listening(proxy) == 4, timeout=TIMEOUT)
        left = [client for client in clients if is_alive(client)]
        assert len(left) < CLIENTS
        left += [connect() for _ in range(CLIENTS - len(left))]
        assert connected(proxy) is None
        for client in left:
            assert client.execute("SELECT 1").fetchone() == (1,)
        left.pop().close()
        eventually(lambda: accepts(proxy, f"SET {setting} = {CLIENTS + 1}"), timeout=TIMEOUT)
        left += [connect(), connect()]
        assert connected(proxy) is None


def is_alive(client: psycopg.Connection[tuple[Any, ...]]) -> bool:
    try:
        client.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def accepts(proxy: ProxyProcess, text: str) -> bool:
    try:
        command(proxy, text)
    except psycopg.OperationalError as error:
        if "too many" not in str(error):
            raise
        return False
    return True
