"""What stands in the table of a database or of a user comes before what holds in general."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from tests.proxy.adversity.helpers import backend_pid, value
from tests.support.proxy import ProxyProcess, StartProxy, eventually
from tests.support.rawclient import RawClient

from tidegate_proxy.protocol import encode

StartWith = Callable[..., ProxyProcess]


@pytest.fixture(params=["database", "user"])
def whose(request: pytest.FixtureRequest) -> str:
    """Whose table it is."""
    text: str = request.param
    return text


@pytest.fixture
def start_with(start_proxy: StartProxy, whose: str) -> StartWith:
    """Start a proxy with settings of the test's database or user, and others in general."""

    def start(own: dict[str, Any], **general: Any) -> ProxyProcess:
        if whose == "database":
            return start_proxy(database_settings=own, **general)
        # The user's table is the last one.
        lines = "".join(f"{key} = {encode_value(value)}\n" for key, value in own.items())
        return start_proxy(more=lines, **general)

    return start


def encode_value(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def test_the_size_of_a_pool_and_of_its_reserve_and_the_wait(start_with: StartWith) -> None:
    own = {"pool_size": 1, "reserve_pool_size": 0, "connection_borrow_timeout": 0.5}
    proxy = start_with(
        own, default_pool_size=5, reserve_pool_size=5, reserve_pool_timeout=0.1, connection_borrow_timeout=3600
    )
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        one.query("BEGIN")
        two.send(encode.query("SELECT 1"))
        assert two.error_until()["C"] == "53300"
        one.query("COMMIT")
        assert value(two, "SELECT 1") == "1"


def test_the_reserve_alone(start_with: StartWith) -> None:
    proxy = start_with(
        {"pool_size": 1, "reserve_pool_size": 1}, default_pool_size=5, reserve_pool_size=0, reserve_pool_timeout=0.1
    )
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        one.query("BEGIN")
        assert value(two, "SELECT 1") == "1"


def test_how_many_clients_there_may_be(start_with: StartWith, whose: str) -> None:
    setting = {"database": "max_db_client_connections", "user": "max_user_client_connections"}[whose]
    proxy = start_with({setting: 1}, **{setting: 100})
    with RawClient(proxy.parameters), pytest.raises(psycopg.OperationalError, match=setting):
        proxy.connect()


def test_how_many_server_connections_there_may_be(start_with: StartWith, whose: str) -> None:
    setting = {"database": "max_db_connections", "user": "max_user_connections"}[whose]
    proxy = start_with({setting: 1}, default_pool_size=5, connection_borrow_timeout=0.5, **{setting: 100})
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        one.query("BEGIN")
        two.send(encode.query("SELECT 1"))
        assert two.error_until()["C"] == "53300"


def test_the_pool_mode(start_with: StartWith) -> None:
    proxy = start_with({"pool_mode": "session"}, default_pool_size=2)
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        # Each keeps what it has, also between transactions.
        assert backend_pid(one) != backend_pid(two)


def test_a_databases_least_number_of_server_connections(start_proxy: StartProxy) -> None:
    proxy = start_proxy(min_pool_size=0, database_settings={"min_pool_size": 3})
    with RawClient(proxy.parameters):
        eventually(lambda: len(proxy.server_pids()) == 3)


def test_a_databases_lifetime_of_server_connections(start_proxy: StartProxy) -> None:
    proxy = start_proxy(server_lifetime=3600, database_settings={"server_lifetime": 0.5})
    with RawClient(proxy.parameters) as client:
        before = backend_pid(client)
        eventually(lambda: backend_pid(client) != before)


def test_a_databases_initialization_query(start_proxy: StartProxy) -> None:
    proxy = start_proxy(init_query="SET work_mem = '222kB'", database_settings={"init_query": "SET work_mem = '111kB'"})
    with RawClient(proxy.parameters) as client:
        assert value(client, "SHOW work_mem") == "111kB"


@pytest.mark.parametrize(
    ("setting", "statements", "sqlstate"),
    [
        ("query_timeout", ["SELECT pg_sleep(3600)"], "57014"),
        ("transaction_timeout", ["BEGIN", "SELECT pg_sleep(3600)"], "25P04"),
        ("idle_transaction_timeout", ["BEGIN"], "25P03"),
        ("idle_client_timeout", [], "57P05"),
    ],
)
def test_a_users_timeouts(start_proxy: StartProxy, setting: str, statements: list[str], sqlstate: str) -> None:
    proxy = start_proxy(more=f"{setting} = 0.5\n", **{setting: 3600})
    with RawClient(proxy.parameters) as client:
        for statement in statements:
            client.send(encode.query(statement))
        assert client.error_until("E")["C"] == sqlstate
