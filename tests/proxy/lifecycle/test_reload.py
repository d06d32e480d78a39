"""A new configuration for a proxy that runs: all or nothing, and clients stay."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psycopg
import pytest
from tests.proxy.adversity.helpers import backend_pid, value
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually
from tests.support.rawclient import RawClient

from tidegate_proxy.protocol import encode


def reload(proxy: ProxyProcess, *changes: tuple[str, str], says: str) -> None:
    """Change the file, and wait for what the proxy says to it."""
    text = proxy.config.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    proxy.config.write_text(text)
    before = proxy.log.count(says)
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: proxy.log.count(says) > before, what=f"{says!r} in the log")


def test_sizes_and_timeouts_change_under_a_client(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, connection_borrow_timeout=3600)
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        one.query("BEGIN")
        two.send(encode.query("SELECT 2"))
        # By the time that this is answered, the proxy has read what came before it.
        value(one, "SELECT 1")
        reload(
            proxy,
            ("default_pool_size = 1", "default_pool_size = 2"),
            ("connection_borrow_timeout = 3600", "connection_borrow_timeout = 0.5"),
            says="reloaded: connection_borrow_timeout, default_pool_size changed",
        )
        # Who waited already gets what there is now.
        assert two.kinds_until() == "TDCZ"
        two.query("BEGIN")
        with pytest.raises(psycopg.OperationalError, match=r"\(0.5 s\)"):
            proxy.connect(application_name="another session, which the server is asked about")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("default_pool_size = 1", "default_pool_size = many", "not valid TOML"),
        ("default_pool_size = 1", "default_pool_sise = 2", "unknown key"),
        ("listen_port = 0", "listen_port = 0\nlog_format = 'json'", "log_format cannot change while the proxy runs"),
    ],
)
def test_a_mistake_changes_nothing(start_proxy: StartProxy, old: str, new: str, says: str) -> None:
    proxy = start_proxy(default_pool_size=1)
    with RawClient(proxy.parameters) as client:
        pid = backend_pid(client)
        # The mistake does not keep out only itself: the new password is not taken over either.
        reload(proxy, (old, new), (f'"{proxy.database.password}"', '"changed"'), says=says)
        assert backend_pid(client) == pid
        proxy.connect().close()
    proxy.allowed_in_log.append(" ERROR ")


@pytest.fixture
def second(database: Database) -> Iterator[str]:
    name = database.name + "_two"
    database.server.create_database(name, owner=database.user)
    yield name
    with database.server.connect() as conn:
        conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_a_database_that_moves_gets_new_server_connections_and_keeps_its_clients(
    start_proxy: StartProxy, second: str
) -> None:
    proxy = start_proxy(default_pool_size=2, database_settings={"dbname": "another"})
    name = proxy.database.name
    reload(proxy, ('dbname = "another"', f'dbname = "{name}"'), says="reloaded: databases changed")
    with RawClient(proxy.parameters) as idle, RawClient(proxy.parameters) as busy:
        assert value(idle, "SELECT current_database()") == name
        busy.query("BEGIN")
        reload(proxy, (f'dbname = "{name}"', f'dbname = "{second}"'), says="reloaded: databases changed")
        assert value(idle, "SELECT current_database()") == second
        assert value(busy, "SELECT current_database()") == name
        busy.query("COMMIT")
        assert value(busy, "SELECT current_database()") == second


def test_users_and_databases_come_and_go(start_proxy: StartProxy) -> None:
    server = 'host = "{host}"\nport = {port}\ntls = "disable"\ndbname = "{name}"\n'
    proxy = start_proxy()
    database = proxy.database
    entry = "\n[databases.later]\n" + server.format(
        host=database.server.host, port=database.server.port, name=database.name
    )
    with pytest.raises(psycopg.OperationalError, match='"later" does not exist'):
        proxy.connect(dbname="later")
    user = f'[users."{database.user}"]'
    reload(proxy, (user, entry + user), says="reloaded: databases changed")
    with RawClient(proxy.parameters | {"dbname": "later"}) as client, RawClient(proxy.parameters) as other:
        client.query("BEGIN")
        reload(proxy, (entry, ""), says="reloaded: databases changed")
        assert value(client, "SELECT 1") == "1"
        client.send(encode.query("COMMIT"))
        assert client.error_until("E")["C"] == "57P01"
        with pytest.raises(psycopg.OperationalError, match='"later" does not exist'):
            proxy.connect(dbname="later")
        reload(proxy, (user, "[users.someone]"), says="reloaded: users changed")
        assert other.is_closed()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            proxy.connect()


def test_a_new_password_is_for_new_clients(start_proxy: StartProxy) -> None:
    proxy = start_proxy()
    database = proxy.database
    with RawClient(proxy.parameters) as client:
        with database.server.connect() as conn:
            conn.execute(f"ALTER ROLE \"{database.user}\" PASSWORD 'another'")
        reload(proxy, (f'"{database.password}"', '"another"'), says="reloaded: users changed")
        assert value(client, "SELECT 1") == "1"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            proxy.connect()
        proxy.connect(password="another").close()
