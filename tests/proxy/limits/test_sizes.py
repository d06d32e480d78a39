"""How many connections there may be: of a pool, of pools that share a limit, of clients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from tests.proxy.adversity.helpers import backend_pid, value
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually, proxy_config
from tests.support.rawclient import RawClient

from tidegate_load.postgres import EmbeddedPostgres
from tidegate_proxy.protocol import encode


@pytest.fixture
def small_server() -> Iterator[EmbeddedPostgres]:
    """PostgreSQL that allows ten connections, three of them for superusers only."""
    with EmbeddedPostgres("16", settings={"max_connections": "10"}) as server:
        yield server


@pytest.fixture
def small(small_server: EmbeddedPostgres) -> Database:
    small_server.create_user("app", "s3cret-app")
    small_server.create_database("app", owner="app")
    return Database(small_server, "app", "app", "s3cret-app")


def busy(stack: ExitStack, proxy: ProxyProcess, count: int, **parameters: object) -> list[RawClient]:
    """So many clients in a transaction."""
    clients = [stack.enter_context(RawClient(proxy.parameters | parameters)) for _ in range(count)]
    for client in clients:
        client.query("BEGIN")
    return clients


def another_user(proxy: ProxyProcess) -> dict[str, object]:
    """A second user's parameters; it is in the proxy's configuration from `with_another_user` on."""
    return {"user": proxy.database.user + "_two", "password": "s3cret-two"}


@pytest.fixture
def with_another_user(database: Database) -> Iterator[str]:
    """TOML for a second user."""
    name = database.user + "_two"
    database.server.create_user(name, "s3cret-two")
    yield f'[users.{name}]\npassword = "s3cret-two"\n'
    with database.server.connect() as conn:
        conn.execute(f'DROP ROLE "{name}"')


def servers_of(database: Database, user: object) -> int:
    with database.server.connect() as conn:
        row = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND backend_type = 'client backend'"
            " AND application_name NOT LIKE 'tidegate %%'",
            [user],
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_the_reserve_is_for_those_who_wait_long_and_goes_back(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, reserve_pool_size=1, reserve_pool_timeout=0.5)
    with ExitStack() as stack:
        (first,) = busy(stack, proxy, 1)
        second = stack.enter_context(RawClient(proxy.parameters))
        assert value(second, "SELECT 1") == "1"
        first.query("COMMIT")
        eventually(lambda: len(proxy.server_pids()) == 1)


def test_a_pool_with_clients_keeps_its_minimum(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=5, min_pool_size=3, server_idle_timeout=0.5)
    with RawClient(proxy.parameters) as client:
        eventually(lambda: len(proxy.server_pids()) == 3)
        pids = proxy.server_pids()
        assert backend_pid(client) in pids
    eventually(lambda: not proxy.server_pids())


def test_a_full_queue_refuses_at_once_and_the_client_stays(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, max_waiting_clients=1, connection_borrow_timeout=3600)
    with ExitStack() as stack:
        waiting, refused = (stack.enter_context(RawClient(proxy.parameters)) for _ in range(2))
        (holder,) = busy(stack, proxy, 1)
        waiting.send(encode.query("SELECT 7"))

        # By the time that this is answered, the proxy has read what came before it.
        value(holder, "SELECT 1")
        refused.send(encode.query("SELECT 1"))
        error = refused.error_until()
        assert error["C"] == "53300"
        assert "wait for a server connection" in error["M"]
        holder.query("COMMIT")
        assert waiting.kinds_until() == "TDCZ"
        assert value(refused, "SELECT 1") == "1"


@pytest.mark.parametrize("setting", ["max_db_connections", "max_connections_percent"])
def test_an_idle_connection_of_another_pool_makes_room_under_a_shared_limit(
    start_proxy: StartProxy, with_another_user: str, database: Database, setting: str
) -> None:
    limit = {"max_db_connections": 1} if setting == "max_db_connections" else {"max_connections_percent": 1}
    proxy = start_proxy(**limit, more=with_another_user)
    users = (database.user, another_user(proxy)["user"])
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters | another_user(proxy)) as two:
        for client in (one, two, one, two):
            assert value(client, "SELECT 1") == "1"
            eventually(lambda: sum(servers_of(database, user) for user in users) == 1)


def test_pools_that_are_always_busy_take_turns_under_a_shared_limit(
    start_proxy: StartProxy, with_another_user: str, database: Database
) -> None:
    proxy = start_proxy(max_db_connections=1, more=with_another_user)
    with ExitStack() as stack:
        greedy = [stack.enter_context(RawClient(proxy.parameters)) for _ in range(3)]
        patient = stack.enter_context(RawClient(proxy.parameters | another_user(proxy)))
        for client in greedy:
            client.send(encode.query("SELECT 1"))
        patient.send(encode.query("SELECT 1"))
        patient.socket.setblocking(False)
        answered = False
        for _ in range(20_000):
            for client in greedy:
                assert client.kinds_until() == "TDCZ"
                client.send(encode.query("SELECT 1"))
            try:
                answered = bool(patient.socket.recv(1000))
                break
            except BlockingIOError:
                continue
        assert answered


def test_a_limit_of_a_user_holds_over_all_databases(start_proxy: StartProxy, database: Database) -> None:
    more = (
        f'[databases.other]\nhost = "{database.server.host}"\nport = {database.server.port}\ntls = "disable"\n'
        f'dbname = "{database.name}"\n'
    )
    proxy = start_proxy(max_user_connections=1, connection_borrow_timeout=2, more=more)
    with ExitStack() as stack:
        (holder,) = busy(stack, proxy, 1)
        with pytest.raises(psycopg.OperationalError, match="connection_borrow_timeout"):
            proxy.connect(dbname="other")
        holder.query("COMMIT")
        with proxy.connect(dbname="other") as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)


def test_what_a_server_allows_is_never_exceeded_by_a_burst(small: Database, tmp_path: Path) -> None:
    """7 of 10 are for ordinary users, one of them has the control connection, and half of the 10 are the pools'."""
    proxy = ProxyProcess(tmp_path, small, proxy_config(small, {"max_connections_percent": 50, "default_pool_size": 20}))
    try:
        proxy.wait_until_listening()
        with ExitStack() as stack:
            clients = [stack.enter_context(RawClient(proxy.parameters)) for _ in range(15)]
            for client in clients:
                client.send(encode.query("SELECT pg_sleep(0.3)"))
            eventually(lambda: servers_of(small, "app") == 5)
            for client in clients:
                assert client.kinds_until() == "TDCZ"
            assert servers_of(small, "app") == 5
        assert "53300" not in proxy.log
        assert "remaining connection slots" not in proxy.log
    finally:
        proxy.close()


def test_idle_connections_beyond_their_percentage_are_closed(start_proxy: StartProxy) -> None:
    proxy = start_proxy(max_connections_percent=10, max_idle_connections_percent=2, server_idle_timeout=8)
    with ExitStack() as stack:
        clients = busy(stack, proxy, 6)
        for client in clients:
            client.query("COMMIT")
        # Of 100. The rest goes when its own time has come.
        eventually(lambda: len(proxy.server_pids()) == 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_client_conn_per_source": 2}, "address 127.0.0.1"),
        ({"max_db_client_connections": 2}, "database"),
        ({"max_user_client_connections": 2}, "user"),
    ],
)
def test_clients_beyond_a_limit_of_theirs_are_refused(
    start_proxy: StartProxy, settings: dict[str, int], words: str
) -> None:
    proxy = start_proxy(**settings)
    with proxy.connect(), proxy.connect() as second:
        with pytest.raises(psycopg.OperationalError, match=f"too many connections for {words}") as refused:
            proxy.connect()
        assert next(iter(settings)) in str(refused.value)
        second.close()
        eventually(lambda: _connects(proxy))


def _connects(proxy: ProxyProcess) -> bool:
    try:
        proxy.connect().close()
    except psycopg.OperationalError:
        return False
    return True
