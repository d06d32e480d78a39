"""Several processes behind one port."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import tempfile
from pathlib import Path

import psutil
import psycopg
import pytest
from tests.e2e.fleet.clients import Observer
from tests.e2e.fleet.conftest import BUDGET, StartClients, StartMember
from tests.proxy.identity.test_auth_query import salt_of
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually
from tests.support.relay import Relay

_WORKER = re.compile(r"worker (\d+) is process (\d+)")
TIMEOUT = 60.0


def workers_of(proxy: ProxyProcess) -> dict[int, int]:
    """The process of each worker, as the log has it last."""
    return {int(index): int(pid) for index, pid in _WORKER.findall(proxy.log)}


def listening(proxy: ProxyProcess) -> int:
    return proxy.log.count("is listening on 127.0.0.1 port")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_that_dies_is_replaced_and_the_others_serve_meanwhile(
    database: Database, start_member: StartMember, start_clients: StartClients
) -> None:
    proxy = start_member(fleet=False, workers=3)
    proxy.allowed_in_log.append(" ERROR tidegate_proxy.workers")
    eventually(lambda: listening(proxy) == 3, timeout=TIMEOUT)
    with Observer(database) as observer:
        eventually(lambda: len(observer.members) == 3, timeout=TIMEOUT, what="three members")
        load = start_clients(proxy, 40)
        eventually(lambda: load.answered > 200, timeout=TIMEOUT)
        before = workers_of(proxy)
        os.kill(before[1], signal.SIGKILL)
        eventually(lambda: workers_of(proxy)[1] != before[1] and listening(proxy) == 4, timeout=TIMEOUT)
        eventually(lambda: len(observer.members) == 3, timeout=TIMEOUT, what="three members again")
        count = load.answered
        eventually(lambda: load.answered > count + 100, timeout=TIMEOUT)
        load.stop()
        # Only the dead one's clients have noticed.
        assert 0 < len(load.errors) < 40
        after = workers_of(proxy)
        assert {after[0], after[2]} == {before[0], before[2]}
    assert max(observer.counts) <= BUDGET


def test_sigterm_drains_all_of_them(database: Database, start_member: StartMember) -> None:
    proxy = start_member(fleet=False, workers=2)
    eventually(lambda: listening(proxy) == 2, timeout=TIMEOUT)
    with proxy.connect(autocommit=False) as conn:
        conn.execute("SELECT 1")
        proxy.process.send_signal(signal.SIGTERM)
        eventually(lambda: proxy.log.count("draining") >= 2, timeout=TIMEOUT)
        conn.execute("SELECT 2")
        conn.commit()
        assert proxy.process.wait(TIMEOUT) == 0
    assert not any(is_alive(pid) for pid in workers_of(proxy).values())


def test_workers_do_not_outlive_their_parent(start_member: StartMember) -> None:
    proxy = start_member(fleet=False, workers=2)
    eventually(lambda: listening(proxy) == 2, timeout=TIMEOUT)
    workers = workers_of(proxy)
    proxy.stop(signal.SIGKILL)
    eventually(lambda: not any(is_alive(pid) for pid in workers.values()), timeout=TIMEOUT)


def test_what_no_worker_can_use_ends_them_all(database: Database, start_member: StartMember) -> None:
    first = start_member(fleet=False)
    with pytest.raises(AssertionError, match="is in use by another program"):
        start_member(fleet=False, workers=2, listen_port=first.port)
    with psycopg.connect(**first.parameters) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_the_parent_sleeps_while_its_workers_work(start_member: StartMember) -> None:
    proxy = start_member(fleet=False, workers=2)
    eventually(lambda: listening(proxy) == 2, timeout=TIMEOUT)
    parent = psutil.Process(proxy.pid)
    before = parent.cpu_times()
    with proxy.connect() as conn:
        for _ in range(5):
            conn.execute("SELECT pg_sleep(0.2)")
    after = parent.cpu_times()
    assert after.user + after.system - before.user - before.system <= 0.1


def replaced(proxy: ProxyProcess, index: int, before: int) -> bool:
    return workers_of(proxy)[index] != before


def test_a_worker_that_cannot_come_back_yet_does_not_end_the_others(start_member: StartMember) -> None:
    with tempfile.TemporaryDirectory() as parent:
        # It is the first one's, and has to be there.
        folder = Path(parent) / "sockets"
        folder.mkdir()
        proxy = start_member(fleet=False, workers=2, unix_socket_dir=str(folder))
        proxy.allowed_in_log.append(" ERROR tidegate_proxy.workers")
        eventually(lambda: listening(proxy) == 2, timeout=TIMEOUT)
        before = workers_of(proxy)
        shutil.rmtree(folder)
        os.kill(before[0], signal.SIGKILL)
        eventually(lambda: proxy.log.count("worker 0 (process ended by status 2)") >= 2, timeout=TIMEOUT)
        assert is_alive(before[1])
        folder.mkdir()
        eventually(lambda: listening(proxy) == 3, timeout=TIMEOUT)
        with proxy.connect() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
        proxy.stop()


def test_a_worker_comes_back_while_the_database_is_away(database: Database, start_member: StartMember) -> None:
    with Relay(database.server.host, database.server.port) as relay:
        proxy = start_member(fleet=False, workers=2, database_settings={"port": relay.port})
        proxy.allowed_in_log.append(" ERROR tidegate_proxy.workers")
        eventually(lambda: listening(proxy) == 2, timeout=TIMEOUT)
    os.kill(workers_of(proxy)[1], signal.SIGKILL)
    eventually(lambda: listening(proxy) == 3, timeout=TIMEOUT)


def test_a_worker_that_cannot_be_started_is_tried_again(start_member: StartMember) -> None:
    proxy = start_member(fleet=False, workers=2)
    proxy.allowed_in_log.append(" ERROR tidegate_proxy.workers")
    eventually(lambda: listening(proxy) == 2, timeout=TIMEOUT)
    before = workers_of(proxy)
    limits = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
    # No more files for the parent, which is to a start what no more memory is.
    resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    os.kill(before[1], signal.SIGKILL)
    eventually(lambda: proxy.log.count("worker 1 cannot be started") >= 2, timeout=TIMEOUT)
    assert is_alive(before[0])
    resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, limits)
    eventually(lambda: replaced(proxy, 1, before[1]) and listening(proxy) == 3, timeout=TIMEOUT)
    assert workers_of(proxy)[0] == before[0]


def test_a_signal_that_comes_during_a_workers_start_waits_for_it(start_member: StartMember) -> None:
    proxy = start_member(fleet=False, workers=2)
    proxy.allowed_in_log.append(" ERROR tidegate_proxy.workers")
    eventually(lambda: listening(proxy) == 2, timeout=TIMEOUT)
    before = workers_of(proxy)
    os.kill(before[1], signal.SIGKILL)
    eventually(lambda: replaced(proxy, 1, before[1]), timeout=TIMEOUT)
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: listening(proxy) == 3, timeout=TIMEOUT)
    assert proxy.log.count("is started again") == 1
    second = workers_of(proxy)[1]
    os.kill(second, signal.SIGKILL)
    eventually(lambda: replaced(proxy, 1, second), timeout=TIMEOUT)
    proxy.process.send_signal(signal.SIGTERM)
    assert proxy.process.wait(TIMEOUT) == 0


def test_all_of_them_show_an_unknown_user_the_same_salt(start_member: StartMember, database: Database) -> None:
    """A user whose salt changes from connection to connection is one that does not exist."""
    proxy = start_member(fleet=False, workers=2)
    eventually(lambda: listening(proxy) == 2, timeout=TIMEOUT)
    # The kernel deals connections out by their port: 20 of them all to one worker would be once in half a million runs.
    assert len({salt_of(proxy, "nobody") for _ in range(20)}) == 1
