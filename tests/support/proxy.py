"""A real proxy process in front of the test's PostgreSQL, and its log, which is checked when the test is over."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.support.postgres import Database
from tests.support.warm import warm

START_TIMEOUT = 60.0
_LISTENING = re.compile(r"is listening on \S+ port (\d+)")


def eventually(condition: Callable[[], Any], *, timeout: float = 60.0, what: str = "the condition") -> Any:
    """Wait until `condition()` is true and return its value; fails after `timeout` seconds.

    The default is what a busy machine needs: whatever comes true at all does so long before."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout:g} s"
        time.sleep(0.02)


class ProxyProcess:
    """`tidegate-proxy serve` as a process of its own. Parameters: `stdout`, where it is not to go to the log."""

    def __init__(
        self, folder: Path, database: Database, config: str, name: str = "proxy.toml", stdout: int | None = None
    ) -> None:
        self.database = database
        self.config = folder / name
        self.config.write_text(config)
        self.log_path = folder / "proxy.log"
        environment = {
            k: v
            for k, v in os.environ.items()
            # Which core runs is the test run's choice.
            if not k.startswith(("TIDEGATE_", "PG")) or k == "TIDEGATE_PROXY_CORE"
        }
        with self.log_path.open("wb") as log:
            self.process = warm().start(
                ["serve", str(self.config)], environment, log.fileno() if stdout is None else stdout, log.fileno()
            )
        self.port = 0
        # Tracebacks and protocol faults that the test provokes on purpose are allowed by name here.
        self.allowed_in_log: list[str] = []

    def wait_until_listening(self) -> None:
        """Wait for the log line that names the port."""

        def listening() -> bool:
            assert self.process.poll() is None, f"the proxy did not start:\n{self.log}"
            found = _LISTENING.search(self.log)
            self.port = int(found[1]) if found else 0
            return bool(found)

        eventually(listening, timeout=START_TIMEOUT, what="the proxy's start")

    @property
    def pid(self) -> int:
        """The proxy's process id."""
        return self.process.pid

    @property
    def log(self) -> str:
        """What the proxy has logged so far."""
        return self.log_path.read_text()

    @property
    def parameters(self) -> dict[str, Any]:
        """Keyword arguments for `psycopg.connect`, through the proxy."""
        return self.database.parameters | {"host": "127.0.0.1", "port": self.port}

    def connect(self, **keywords: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection through the proxy, in autocommit mode unless told otherwise."""
        return psycopg.connect(**({"autocommit": True, "connect_timeout": 60} | self.parameters | keywords))

    def server_pids(self) -> set[int]:
        """Process ids of the server connections that PostgreSQL sees from the proxy (or anyone) as the test's user; the
        proxy's control connections are not among them."""
        query = "SELECT pid FROM pg_stat_activity WHERE usename = %s AND application_name NOT LIKE 'tidegate %%'"
        with self.database.server.connect() as conn:
            rows = conn.execute(query, [self.database.user]).fetchall()
        return {row[0] for row in rows}

    def resident_memory(self) -> int:
        """Bytes of resident memory of the proxy process."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def reload(self, **settings: Any) -> None:
        """Change general settings, and wait until the proxy has taken them over."""
        text = self.config.read_text()
        for key, value in settings.items():
            text = re.sub(rf"(?m)^{key} = .*\n", "", text, count=1)
            text = f"{key} = {_toml(value)}\n{text}"
        self.config.write_text(text)
        before = self.log.count("reloaded: ")
        self.process.send_signal(signal.SIGHUP)
        eventually(lambda: self.log.count("reloaded: ") > before, what="the reload")

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout: float = 60.0) -> int:
        """Send a signal and wait for the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout)

    def close(self) -> None:
        """End the process, and see that its log shows no fault of its own."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the proxy did not stop:\n{self.log}") from None
        log = self.log
        for text in self.allowed_in_log:
            log = log.replace(text, "")
        for fault in ("Traceback", " ERROR ", "never awaited", "never retrieved", "protocol violation"):
            assert fault not in log, f"the proxy logged a fault:\n{self.log}"
        assert self.database.password not in self.log


def proxy_config(
    database: Database, settings: Mapping[str, Any] | None = None, database_settings: Mapping[str, Any] | None = None
) -> str:
    """TOML for a proxy in front of the test's database; values are written as JSON writes them,
    and dictionaries as tables."""
    # A pool is of one size here, however long somebody waits; tests of the reserve ask for it.
    defaults = {"listen_port": 0, "reserve_pool_size": 0}
    lines = [f"{key} = {_toml(value)}" for key, value in (defaults | dict(settings or {})).items()]
    lines.append(f"[databases.{json.dumps(database.name)}]")
    target = {"host": database.server.host, "port": database.server.port, "tls": "disable"} | dict(
        database_settings or {}
    )
    lines += [f"{key} = {json.dumps(value)}" for key, value in target.items()]
    lines += [f"[users.{json.dumps(database.user)}]", f"password = {json.dumps(database.password)}"]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)


StartProxy = Callable[..., ProxyProcess]


@pytest.fixture
def start_proxy(tmp_path: Path, database: Database) -> Iterator[StartProxy]:
    """Start proxies for this test: `start_proxy(default_pool_size=1, database_settings={...})`.

    `more` is TOML that follows the table of the test's user. All are stopped afterwards."""
    started: list[ProxyProcess] = []

    def start(*, database_settings: Mapping[str, Any] | None = None, more: str = "", **settings: Any) -> ProxyProcess:
        folder = tmp_path / f"proxy{len(started)}"
        folder.mkdir()
        proxy = ProxyProcess(folder, database, proxy_config(database, settings, database_settings or {}) + more)
        started.append(proxy)
        proxy.wait_until_listening()
        return proxy

    with contextlib.ExitStack() as stack:
        yield start
        for proxy in started:
            stack.callback(proxy.close)


@pytest.fixture
def proxy(start_proxy: StartProxy) -> ProxyProcess:
    """A proxy with default settings."""
    return start_proxy()


@pytest.fixture
def narrow_proxy(start_proxy: StartProxy) -> ProxyProcess:
    """A proxy with a single server connection, which all clients have to share."""
    return start_proxy(default_pool_size=1)
