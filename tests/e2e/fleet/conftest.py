"""A PostgreSQL with few connections, and proxies that share them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.fleet.clients import Clients
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, proxy_config

from tidegate_load.postgres import EmbeddedPostgres

MAX_CONNECTIONS = 60
PERCENT = 80
BUDGET = 48

StartMember = Callable[..., ProxyProcess]
StartClients = Callable[..., Clients]


@pytest.fixture(scope="session")
def small_postgres() -> Iterator[EmbeddedPostgres]:
    """PostgreSQL with MAX_CONNECTIONS."""
    with EmbeddedPostgres("18", settings={"max_connections": str(MAX_CONNECTIONS)}) as server:
        yield server


@pytest.fixture
def database(small_postgres: EmbeddedPostgres) -> Iterator[Database]:
    """A fresh database with an owner of its own, dropped afterwards."""
    server, name, password = small_postgres, "app", "s3cret-app"
    server.create_user(name, password)
    server.create_database(name, owner=name)
    yield Database(server, name, name, password)
    with server.connect() as conn:
        conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        conn.execute(f'DROP ROLE "{name}"')


@pytest.fixture
def start_member(tmp_path: Path, database: Database) -> Iterator[StartMember]:
    """Start a proxy that is a member of the fleet; settings as keywords, `database_settings` are of its database.

    All are stopped afterwards.
    """
    started: list[ProxyProcess] = []

    def start(*, database_settings: Mapping[str, Any] | None = None, **settings: Any) -> ProxyProcess:
        folder = tmp_path / f"member{len(started)}"
        folder.mkdir()
        defaults = {"fleet": True, "max_connections_percent": PERCENT, "default_pool_size": 40, "log_level": "debug"}
        member = ProxyProcess(folder, database, proxy_config(database, defaults | settings, database_settings))
        started.append(member)
        member.wait_until_listening()
        return member

    with contextlib.ExitStack() as stack:
        yield start
        for member in started:
            stack.callback(member.close)


@pytest.fixture
def start_clients() -> Iterator[StartClients]:
    """Start clients of a proxy; see Clients. All are stopped afterwards."""
    started: list[Clients] = []

    def start(proxy: ProxyProcess, count: int, seconds: float = 0.05) -> Clients:
        started.append(Clients(proxy, count, seconds))
        return started[-1]

    with contextlib.ExitStack() as stack:
        yield start
        for clients in started:
            stack.callback(clients.stop)
