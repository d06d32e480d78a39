"""Endpoints: the same test talks to PostgreSQL and to a proxy.

The two proxies of a test process are started once, as every test has a database, and thus a pool, of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from tests.drivers.endpoints import Endpoint
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, proxy_config

from tidegate_load.postgres import EmbeddedPostgres

USER = "driver"
PASSWORD = "s3cret-driver"

_names = itertools.count(1)

GetProxy = Callable[[int], ProxyProcess]


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """PostgreSQL 18 that also allows two-phase commits."""
    settings = {"max_connections": "100", "max_prepared_transactions": "20"}
    with EmbeddedPostgres("18", settings=settings) as server:
        server.create_user(USER, PASSWORD)
        yield server


@pytest.fixture(scope="session")
def proxy_of_size(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GetProxy]:
    """`proxy_of_size(2)`: a proxy that opens two server connections to each database."""
    started: dict[int, ProxyProcess] = {}

    def get(pool_size: int) -> ProxyProcess:
        if pool_size not in started:
            anything = Database(postgres, "*", USER, PASSWORD)
            config = proxy_config(anything, {"default_pool_size": pool_size, "connection_borrow_timeout": 30})
            proxy = ProxyProcess(tmp_path_factory.mktemp("proxy"), anything, config)
            started[pool_size] = proxy
            proxy.wait_until_listening()
        return started[pool_size]

    try:
        yield get
    finally:
        for proxy in started.values():
            proxy.close()


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> Iterator[Database]:
    """A fresh database, dropped afterwards."""
    name = f"db{next(_names)}"
    postgres.create_database(name, owner=USER)
    yield Database(postgres, name, USER, PASSWORD)
    with postgres.connect() as conn:
        conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(params=["direct", "proxied"])
def endpoint(request: pytest.FixtureRequest, database: Database, proxy_of_size: GetProxy) -> Endpoint:
    """A fresh database, once reached directly and once through a proxy with two server connections."""
    return Endpoint(database, proxy_of_size(2) if request.param == "proxied" else None)


@pytest.fixture(params=["direct", "proxied"])
def narrow_endpoint(request: pytest.FixtureRequest, database: Database, proxy_of_size: GetProxy) -> Endpoint:
    """The same, but all clients of the proxy share a single server connection."""
    return Endpoint(database, proxy_of_size(1) if request.param == "proxied" else None)


@pytest.fixture
def both_endpoints(database: Database, proxy_of_size: GetProxy) -> tuple[Endpoint, Endpoint]:
    """The same fresh database directly and through a proxy, for results that are compared with each other."""
    return Endpoint(database, None), Endpoint(database, proxy_of_size(2))
