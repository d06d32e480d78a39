"""`tidegate-proxy top`: a look at a running proxy from the terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually


@pytest.fixture
def watched(start_proxy: StartProxy, database: Database) -> ProxyProcess:
    """A proxy with one server connection, whose test user may look at the console."""
    return start_proxy(default_pool_size=1, stats_users=[database.user])


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tidegate_proxy", "top", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "PG"))}
    return kept | {"COLUMNS": "200", "LINES": "50", "TERM": "xterm"} | more


def test_once_shows_pools_waiters_pins_and_latencies(watched: ProxyProcess) -> None:
    with watched.connect() as one, watched.connect() as two:
        one.execute("LISTEN c")
        waiter = threading.Thread(target=two.execute, args=["SELECT 1"])
        waiter.start()
        try:

            def shown() -> str:
                done = subprocess.run(
                    command(watched.config, "--port", watched.port, "--once"),
                    env=environment(),
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=True,
                )
                return done.stdout if "1 waiting" in done.stdout and "listen" in done.stdout else ""

            text = eventually(shown, timeout=60)
        finally:
            one.execute("UNLISTEN c")
            waiter.join()
    assert text.startswith("Tidegate ")
    assert "2 clients" in text
    assert watched.database.name in text
    for word in ("longest wait", "transactions/s", "p99", "transaction"):
        assert word in text
    assert watched.database.password not in text


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_refreshes_until_ctrl_c_which_ends_it_cleanly(watched: ProxyProcess, how: signal.Signals) -> None:
    main, terminal = pty.openpty()
    # SIGINT is ignored in what a script has put into the background, and whatever that starts.
    script = 'trap "" INT; exec "$@"'
    process = subprocess.Popen(
        ["sh", "-c", script, "sh", *command(watched.config, "--port", watched.port, "--interval", "0.2")],
        env=environment(),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown = bytearray()

    def read() -> None:
        try:
            while data := os.read(main, 65_536):
                shown.extend(data)
        except OSError:  # the other side is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        # Each refresh shows the title anew.
        eventually(lambda: shown.count(b"Tidegate ") >= 3, timeout=60)
        process.send_signal(how)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        reader.join()
        os.close(main)
    assert b"Traceback" not in shown


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--host", "127.0.0.1", "--port", "1", "--user", "x", "--once"], 1, "could not connect to 127.0.0.1:1"),
        (["--once"], 2, "--user"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: list[str], status: int, message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == status
    assert message in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_a_user_without_permission_is_told_so(watched: ProxyProcess, start_proxy: StartProxy) -> None:
    other = start_proxy()
    done = subprocess.run(
        command("--port", other.port, "--user", watched.database.user, "--once"),
        env=environment(PGPASSWORD=watched.database.password),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "may not use the admin console" in done.stderr
