"""A new configuration is taken over by all workers or by none, and one that is started later has it, too."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from tests.e2e.fleet.conftest import StartMember
from tests.e2e.fleet.test_console_of_workers import CLIENTS, everywhere, setting
from tests.e2e.fleet.test_workers import TIMEOUT, listening, workers_of
from tests.proxy.console.helpers import command
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually

from tidegate_proxy.settings.certificates import RDS_ROOTS

Console = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def proxy(database: Database, start_member: StartMember) -> Iterator[ProxyProcess]:
    """Two workers. The Unix socket is the first one's."""
    with tempfile.TemporaryDirectory() as folder:
        proxy = start_member(fleet=False, workers=2, admin_users=[database.user], unix_socket_dir=folder)
        eventually(lambda: listening(proxy) == 2, timeout=TIMEOUT)
        yield proxy
        # While the folder is there.
        proxy.stop()


def console_of_first(proxy: ProxyProcess) -> Console:
    folder = next(line for line in proxy.config.read_text().splitlines() if line.startswith("unix_socket_dir"))
    parameters = proxy.parameters | {"host": folder.split('"')[1], "dbname": "pgbouncer"}
    return psycopg.connect(**parameters, autocommit=True, cursor_factory=psycopg.ClientCursor)


def change(proxy: ProxyProcess, *pairs: tuple[str, str]) -> None:
    text = proxy.config.read_text()
    for old, new in pairs:
        assert text.count(old) == 1
        text = text.replace(old, new)
    proxy.config.write_text(text)


SIZE = ("default_pool_size = 40", "default_pool_size = 30")


def only_for(pid: int, path: Path) -> str:
    """The same file, by a name that only this process can open: /proc/self/task has its own threads, see proc(5)."""
    return f"/proc/self/task/{pid}/root{path}"


@pytest.mark.parametrize("how", ["console", "signal"])
def test_what_one_worker_refuses_none_takes_over(proxy: ProxyProcess, how: str) -> None:
    first = workers_of(proxy)[0]
    tls = 'tls = "verify-full"\ntls_ca = ' + f'"{only_for(first, RDS_ROOTS)}"'
    change(proxy, SIZE, ('tls = "disable"', tls))
    why = r"worker 1: tls_ca \S+: cannot be used"
    if how == "console":
        with console_of_first(proxy) as conn, pytest.raises(psycopg.errors.ConfigFileError, match=why):
            conn.execute("RELOAD")
    else:
        proxy.allowed_in_log.append(" ERROR tidegate_proxy.proxy")
        proxy.process.send_signal(signal.SIGHUP)
    says = "the configuration is not reloaded, the one before stays in use: worker 1: tls_ca "
    eventually(lambda: says in proxy.log, timeout=TIMEOUT)
    assert proxy.log.count(says) == 1
    assert everywhere(lambda: setting(proxy, "default_pool_size")) == {"40"}
    change(proxy, (tls, 'tls = "disable"'))
    command(proxy, "RELOAD")
    assert everywhere(lambda: setting(proxy, "default_pool_size")) == {"30"}
    with proxy.connect() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_the_files_are_read_once(proxy: ProxyProcess, tmp_path: Path) -> None:
    path = tmp_path / "password"
    os.mkfifo(path)
    change(proxy, (f'password = "{proxy.database.password}"', f'password_file = "{path}"'))
    with proxy.database.server.connect() as conn:
        conn.execute(f"ALTER ROLE {proxy.database.user} PASSWORD 'another-s3cret'")
    proxy.process.send_signal(signal.SIGHUP)
    # Whoever comes second finds nobody who would write into it.
    with path.open("w") as pipe:
        path.unlink()
        pipe.write("another-s3cret")
    eventually(lambda: "reloaded: users changed" in proxy.log, timeout=TIMEOUT)
    assert proxy.log.count("reloaded: users changed") == 1
    for _ in range(CLIENTS):
        proxy.connect(password="another-s3cret").close()


def test_a_worker_that_does_not_answer_keeps_all_from_it(proxy: ProxyProcess) -> None:
    second = workers_of(proxy)[1]
    change(proxy, SIZE)
    with console_of_first(proxy) as conn:
        os.kill(second, signal.SIGSTOP)
        try:
            with pytest.raises(psycopg.errors.ConfigFileError, match="worker 1: does not answer"):
                conn.execute("RELOAD")
        finally:
            os.kill(second, signal.SIGCONT)
        assert everywhere(lambda: setting(proxy, "default_pool_size")) == {"40"}
        conn.execute("RELOAD")
    assert everywhere(lambda: setting(proxy, "default_pool_size")) == {"30"}


def test_a_worker_that_is_started_again_has_what_the_others_have(proxy: ProxyProcess) -> None:
    proxy.allowed_in_log.append(" ERROR tidegate_proxy.workers")
    change(proxy, SIZE)
    command(proxy, "RELOAD")
    # Nobody has been told to read these yet; the second of them nobody could.
    for index, text in enumerate((proxy.config.read_text().replace(SIZE[1], SIZE[0]), "this is no TOML")):
        proxy.config.write_text(text)
        os.kill(workers_of(proxy)[1], signal.SIGKILL)
        eventually(partial(lambda count: listening(proxy) == count, 3 + index), timeout=TIMEOUT)
        assert everywhere(lambda: setting(proxy, "default_pool_size")) == {"30"}


def test_one_that_is_being_started_is_waited_for(proxy: ProxyProcess) -> None:
    proxy.allowed_in_log.append(" ERROR tidegate_proxy.workers")
    before = workers_of(proxy)[1]
    change(proxy, SIZE)
    os.kill(before, signal.SIGKILL)
    eventually(lambda: workers_of(proxy)[1] != before, timeout=TIMEOUT)
    with console_of_first(proxy) as conn:
        conn.execute("RELOAD")
    assert everywhere(lambda: setting(proxy, "default_pool_size")) == {"30"}
