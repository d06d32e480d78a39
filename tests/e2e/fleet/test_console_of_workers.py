"""The admin console of several workers is one: what it is told holds for all of them, and what it shows is of all."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psutil
import psycopg
import pytest
from tests.e2e.fleet.conftest import StartMember
from tests.e2e.fleet.test_workers import TIMEOUT, is_alive, listening, workers_of
from tests.proxy.console.helpers import command, only, show
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually

CLIENTS = 12
"""Enough for each of three workers to get some."""

Connections = list[psycopg.Connection[tuple[Any, ...]]]


@pytest.fixture
def proxy(database: Database, start_member: StartMember) -> ProxyProcess:
    """Three workers; the test's user is an admin of the console."""
    proxy = start_member(fleet=False, workers=3, admin_users=[database.user])
    eventually(lambda: listening(proxy) == 3, timeout=TIMEOUT)
    return proxy


@contextlib.contextmanager
def connected(proxy: ProxyProcess) -> Iterator[Connections]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(proxy.connect())) for _ in range(CLIENTS)]


def workers_with(connections: Connections) -> int:
    """How many workers these clients are with: the process id in a cancel key begins with its worker's tag."""
    return len({connection.info.backend_pid >> 20 for connection in connections})


def everywhere(ask: Callable[[], Any]) -> set[Any]:
    """What different connections are answered."""
    return {ask() for _ in range(CLIENTS)}


def setting(proxy: ProxyProcess, name: str) -> str:
    value: str = only(show(proxy, "CONFIG"), key=name)["value"]
    return value


def refused(proxy: ProxyProcess) -> bool:
    try:
        proxy.connect().close()
    except psycopg.OperationalError as error:
        return "is disabled" in str(error)
    return False


def test_pause_and_resume_concern_all_clients(proxy: ProxyProcess) -> None:
    with connected(proxy) as connections:
        assert workers_with(connections) > 1
        for connection in connections:
            connection.execute("SELECT 1")
        command(proxy, f"PAUSE {proxy.database.name}")
        assert show(proxy, "SERVERS") == []
        threads = [threading.Thread(target=connection.execute, args=["SELECT 2"]) for connection in connections]
        for thread in threads:
            thread.start()
        eventually(
            lambda: only(show(proxy, "POOLS"), database=proxy.database.name)["cl_waiting"] == CLIENTS, timeout=TIMEOUT
        )
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=r"^already paused"):
            command(proxy, "PAUSE app")
        command(proxy, "RESUME")
        for thread in threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="not paused"):
            command(proxy, "RESUME")


def test_disable_and_settings_hold_in_all_workers_until_the_configuration_is_read_again(proxy: ProxyProcess) -> None:
    command(proxy, f"DISABLE {proxy.database.name}")
    assert everywhere(lambda: refused(proxy)) == {True}
    command(proxy, f"ENABLE {proxy.database.name}")
    assert everywhere(lambda: refused(proxy)) == {False}
    command(proxy, "SET query_timeout = 77")
    assert everywhere(lambda: setting(proxy, "query_timeout")) == {"77"}
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"^SET failed"):
        command(proxy, "SET query_timeout = never")
    command(proxy, "RELOAD")
    assert everywhere(lambda: setting(proxy, "query_timeout")) == {"0"}
    proxy.config.write_text(proxy.config.read_text() + "\nnonsense")
    with pytest.raises(psycopg.errors.ConfigFileError, match=r"^RELOAD failed"):
        command(proxy, "RELOAD")


def test_clients_are_shown_and_ended_wherever_they_are(proxy: ProxyProcess) -> None:
    with connected(proxy) as connections:
        assert workers_with(connections) > 1
        for connection in connections:
            connection.execute("SELECT 1")
        shown = {row["id"] for row in show(proxy, "CLIENTS") if row["database"] == proxy.database.name}
        assert shown == {connection.info.backend_pid for connection in connections}
        assert only(show(proxy, "DATABASES"), name=proxy.database.name)["current_client_connections"] == CLIENTS
        assert only(show(proxy, "STATS_TOTALS"), database=proxy.database.name)["xact_count"] == CLIENTS
        assert only(show(proxy, "TOTALS"), name="total_xact_count")["value"] >= CLIENTS
        assert only(show(proxy, "LATENCIES"), kind="wait")["count"] == CLIENTS
        assert len(show(proxy, "SERVERS")) > 1
        for connection in connections[:-1]:
            command(proxy, f"KILL_CLIENT {connection.info.backend_pid}")
            with pytest.raises(psycopg.errors.AdminShutdown):
                connection.execute("SELECT 1")
        with pytest.raises(psycopg.errors.UndefinedObject, match=r"^client 5 not found"):
            command(proxy, "KILL_CLIENT 5")
        connections[-1].execute("SELECT 1")
        command(proxy, "KILL")
        with pytest.raises(psycopg.errors.AdminShutdown):
            connections[-1].execute("SELECT 1")


def test_reconnect_replaces_the_connections_of_all(proxy: ProxyProcess) -> None:
    def servers() -> set[int]:
        return {row["remote_pid"] for row in show(proxy, "SERVERS")}

    with connected(proxy) as connections:
        for connection in connections:
            connection.execute("SELECT 1")
        before = servers()
        command(proxy, "RECONNECT")
        command(proxy, "WAIT_CLOSE")
        for connection in connections:
            connection.execute("SELECT 1")
        assert before
        assert servers().isdisjoint(before)


def test_shutdown_for_clients_waits_for_those_of_all_workers(proxy: ProxyProcess) -> None:
    with connected(proxy) as connections:
        assert workers_with(connections) > 1
        command(proxy, "SHUTDOWN WAIT_FOR_CLIENTS")
        with pytest.raises(psycopg.OperationalError):
            proxy.connect().close()
        kept = connections[0].info.backend_pid >> 20
        for connection in connections:
            if connection.info.backend_pid >> 20 != kept:
                connection.close()
        # Workers without clients end, and that must not concern the others.
        eventually(lambda: sum(map(is_alive, workers_of(proxy).values())) == 1, timeout=TIMEOUT)
        assert connections[0].execute("SELECT 1").fetchone() == (1,)
    assert proxy.process.wait(TIMEOUT) == 0


def test_shutdown_for_servers_lets_transactions_of_all_workers_end(proxy: ProxyProcess) -> None:
    with connected(proxy) as connections:
        assert workers_with(connections) > 1
        for connection in connections:
            connection.execute("BEGIN")
        command(proxy, "SHUTDOWN WAIT_FOR_SERVERS")
        for connection in connections:
            connection.execute("COMMIT")
    assert proxy.process.wait(TIMEOUT) == 0


def test_shutdown_ends_all_at_once(proxy: ProxyProcess) -> None:
    with connected(proxy) as connections:
        for connection in connections:
            connection.execute("BEGIN")
        command(proxy, "SHUTDOWN")
        assert proxy.process.wait(TIMEOUT) == 0


def test_a_worker_that_is_started_again_knows_what_the_others_were_told(proxy: ProxyProcess) -> None:
    proxy.allowed_in_log.append(" ERROR tidegate_proxy.workers")
    command(proxy, "SET query_timeout = 77")
    command(proxy, f"DISABLE {proxy.database.name}")
    for index, worker in workers_of(proxy).items():
        os.kill(worker, signal.SIGKILL)
        eventually(partial(lambda count: listening(proxy) == count, 4 + index), timeout=TIMEOUT)
    assert everywhere(lambda: setting(proxy, "query_timeout")) == {"77"}
    assert everywhere(lambda: refused(proxy)) == {True}


def test_two_workers_that_are_started_again_at_once_ask_the_third(proxy: ProxyProcess) -> None:
    proxy.allowed_in_log.append(" ERROR tidegate_proxy.workers")
    command(proxy, "SET query_timeout = 77")
    command(proxy, f"DISABLE {proxy.database.name}")
    workers = workers_of(proxy)
    for index in (0, 1):
        os.kill(workers[index], signal.SIGKILL)
    eventually(lambda: listening(proxy) == 5, timeout=TIMEOUT)
    eventually(lambda: proxy.log.count("as the other workers: SET") == 2, timeout=TIMEOUT)
    assert everywhere(lambda: setting(proxy, "query_timeout")) == {"77"}
    assert everywhere(lambda: refused(proxy)) == {True}


def test_a_worker_that_does_not_answer_is_named(database: Database, start_member: StartMember) -> None:
    with tempfile.TemporaryDirectory() as folder:
        proxy = start_member(fleet=False, workers=2, admin_users=[database.user], unix_socket_dir=folder)
        eventually(lambda: listening(proxy) == 2, timeout=TIMEOUT)
        workers = workers_of(proxy)
        # The Unix socket is the first one's.
        with psycopg.connect(
            **proxy.parameters | {"host": folder, "dbname": "pgbouncer"},
            autocommit=True,
            cursor_factory=psycopg.ClientCursor,
        ) as console:
            notices: list[str | None] = []
            console.add_notice_handler(lambda notice: notices.append(notice.message_primary))
            os.kill(workers[1], signal.SIGSTOP)
            try:
                with pytest.raises(psycopg.errors.ConnectionFailure, match=r"^worker 1: does not answer"):
                    console.execute("SET query_timeout = 77")
                assert console.execute("SHOW POOLS").description
                assert notices == ["worker 1: does not answer"]
            finally:
                os.kill(workers[1], signal.SIGCONT)
            console.execute("SET query_timeout = 78")
            assert everywhere(lambda: setting(proxy, "query_timeout")) == {"78"}


@pytest.mark.parametrize("how", ["", " WAIT_FOR_SERVERS", " WAIT_FOR_CLIENTS"])
def test_a_shutdown_concerns_a_worker_that_is_being_started(
    database: Database, start_member: StartMember, how: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        proxy = start_member(fleet=False, workers=2, admin_users=[database.user], unix_socket_dir=folder)
        proxy.allowed_in_log.append(" ERROR tidegate_proxy.workers")
        eventually(lambda: listening(proxy) == 2, timeout=TIMEOUT)
        before = workers_of(proxy)[1]
        with psycopg.connect(
            **proxy.parameters | {"host": folder, "dbname": "pgbouncer"},
            autocommit=True,
            cursor_factory=psycopg.ClientCursor,
        ) as console:
            os.kill(before, signal.SIGKILL)
            eventually(lambda: workers_of(proxy)[1] != before, timeout=TIMEOUT)
            second = workers_of(proxy)[1]
            # It hears of nothing before the other one has ended.
            os.kill(second, signal.SIGSTOP)
            with contextlib.suppress(psycopg.errors.AdminShutdown):
                console.execute(f"SHUTDOWN{how}")
        eventually(lambda: not is_running(workers_of(proxy)[0]), timeout=TIMEOUT)
        os.kill(second, signal.SIGCONT)
        assert proxy.process.wait(TIMEOUT) == 0


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
