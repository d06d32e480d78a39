"""/readyz is about the process: it waits for one login that works, and then stays, whatever the database does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.proxy.metrics.test_served import get
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually
from tests.support.relay import Relay

OK = (200, "ok\n")
OUTAGE = (200, "ok, but no target is available at present: clients wait\n")
CHECKS = {"target_check_interval": 0.2, "target_check_timeout": 2.0}

StartWith = Callable[[Database, str], ProxyProcess]


@pytest.fixture
def start_with(tmp_path: Path) -> Iterator[StartWith]:
    """Starts a proxy with a configuration as it stands; `http_port` and the like come first."""
    with ExitStack() as stack:

        def start(database: Database, config: str) -> ProxyProcess:
            proxy = ProxyProcess(tmp_path, database, "listen_port = 0\nhttp_port = 0\ncheck_targets = false\n" + config)
            stack.callback(proxy.close)
            proxy.wait_until_listening()
            return proxy

        yield start


def any_database(database: Database, host_port: tuple[str, int] | None = None) -> str:
    """The table for whatever database a client names."""
    host, port = host_port or (database.server.host, database.server.port)
    return f'[databases."*"]\nhost = "{host}"\nport = {port}\ntls = "disable"\n'


def user(database: Database, password: str | None = None) -> str:
    return f'[users."{database.user}"]\npassword = {json.dumps(password or database.password)}\n'


def test_an_outage_keeps_every_task_and_every_client(
    start_proxy: StartProxy, database: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(database.server.port)
    proxy = start_proxy(http_port=0, **CHECKS, database_settings={"port": relay.port})
    with proxy.connect() as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
        eventually(lambda: get(proxy, "/readyz") == OK)
        relay.black_hole()
        relay.reset_all()
        eventually(lambda: get(proxy, "/readyz") == OUTAGE, timeout=60)
        assert get(proxy, "/healthz") == OK
        answers: list[object] = []
        waiting = threading.Thread(target=lambda: answers.append(client.execute("SELECT 2").fetchone()))
        waiting.start()
        relay.resume()
        waiting.join(60)
        assert answers == [(2,)]
        eventually(lambda: get(proxy, "/readyz") == OK, timeout=60)


def test_a_task_that_starts_in_an_outage_gets_no_clients_until_it_is_over(
    start_proxy: StartProxy, database: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(database.server.port)
    relay.black_hole()
    proxy = start_proxy(
        http_port=0, check_targets=False, server_connect_timeout=1, **CHECKS, database_settings={"port": relay.port}
    )
    status, text = get(proxy, "/readyz")
    assert (status, text.startswith("no ")) == (503, True)
    relay.resume()
    eventually(lambda: get(proxy, "/readyz") == OK, timeout=60)


def test_one_database_that_is_missing_does_not_hide_another(start_proxy: StartProxy, database: Database) -> None:
    there = f'[databases.there]\nhost = "127.0.0.1"\nport = {database.server.port}\ntls = "disable"\n'
    more = f"{there}dbname = {json.dumps(database.name)}\n"
    proxy = start_proxy(http_port=0, check_targets=False, database_settings={"dbname": "not there"}, more=more)
    assert get(proxy, "/readyz") == OK


def test_without_names_of_databases_it_logs_in_all_the_same(start_with: StartWith, database: Database) -> None:
    proxy = start_with(database, any_database(database) + user(database))
    assert get(proxy, "/readyz") == OK

    def logged_in() -> int:
        with database.server.connect() as conn:
            row = conn.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", [database.user]).fetchone()
        assert row is not None
        return int(row[0])

    eventually(lambda: logged_in() <= 1, what="its logout")


def test_without_names_of_databases_a_wrong_password_is_not_ready(start_with: StartWith, database: Database) -> None:
    proxy = start_with(database, any_database(database) + user(database, "wrong"))
    assert get(proxy, "/readyz") == (503, "no login to a target is possible\n")


def test_a_user_who_may_not_use_the_database_that_is_tried_is_let_in_nevertheless(
    start_with: StartWith, database: Database
) -> None:
    with database.server.connect() as conn:
        conn.execute("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")
    try:
        assert get(start_with(database, any_database(database) + user(database)), "/readyz") == OK
    finally:
        with database.server.connect() as conn:
            conn.execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC")


def test_where_only_clients_bring_passwords_a_server_that_answers_is_enough(
    start_with: StartWith, database: Database, relay_to: Callable[[int], Relay]
) -> None:
    with database.server.connect() as conn:
        query = "SELECT rolpassword FROM pg_authid WHERE rolname = %s"
        (verifier,) = conn.execute(query, [database.user]).fetchone() or ("",)
    relay = relay_to(database.server.port)
    config = any_database(database, ("127.0.0.1", relay.port)) + f'[users."{database.user}"]\nverifier = "{verifier}"\n'
    proxy = start_with(database, config)
    assert get(proxy, "/readyz") == OK
    with proxy.connect() as client:
        assert client.execute("SELECT 1").fetchone() == (1,)


def test_where_only_clients_bring_passwords_and_no_server_answers_it_is_not_ready(
    start_with: StartWith, database: Database, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(database.server.port)
    relay.close()
    verifier = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$" + "A" * 43 + "=:" + "B" * 42 + "A="
    config = any_database(database, ("127.0.0.1", relay.port)) + f'[users.app]\nverifier = "{verifier}"\n'
    assert get(start_with(database, config), "/readyz") == (503, "no target can be reached\n")
