"""The proxy as a process of its own, in front of one database and for one user."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from tidegate_load.postgres import UNENCRYPTED
from tidegate_load.spike.interrupt import Interruption
from tidegate_load.spike.processes import Child

START_TIMEOUT = 20.0
"""Seconds that the proxy may take to accept its first login."""

HOST = "127.0.0.1"

_LISTENING = re.compile(r"is listening on \S+ port (\d+)")


def proxy_configuration(pool_size: int, borrow_timeout: float, server: Mapping[str, Any]) -> str:
    """The TOML file: one database and one user, no TLS, everything on loopback.

    The port is the kernel's choice; the log names it.

    Parameters: `borrow_timeout` in seconds; `server`, keyword arguments for
    `psycopg.connect` that name the database behind the proxy and the user.
    """
    # A JSON string is a valid TOML basic string, so quoting is left to json.
    database, user, password = (json.dumps(server[key]) for key in ("dbname", "user", "password"))
    return f"""\
listen_host = "{HOST}"
listen_port = 0
client_tls = "disable"
default_pool_size = {pool_size}
reserve_pool_size = 0
connection_borrow_timeout = {borrow_timeout}

[databases.{database}]
host = {json.dumps(server["host"])}
port = {server["port"]}
tls = "disable"

[users.{user}]
password = {password}
"""


class ProxyProcess:
    """A running `tidegate-proxy serve`, ready for logins once entered.

    Parameters: as `proxy_configuration`; `log`, the file for what it says; `interruption`, checked
    while waiting.
    Raises: StepError from entering if it ends or accepts no login in time.
    """

    def __init__(
        self,
        server: Mapping[str, Any],
        *,
        pool_size: int,
        borrow_timeout: float,
        log: Path,
        interruption: Interruption,
    ) -> None:
        self._server = dict(server)
        self._pool_size = pool_size
        self._borrow_timeout = borrow_timeout
        self._log = log
        self._interruption = interruption
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.child: Child | None = None
        self.port = 0

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def parameters(self) -> dict[str, Any]:
        """Keyword arguments for `psycopg.connect`, through the proxy."""
        return self._server | {"host": HOST, "port": self.port}

    def close(self) -> None:
        """Let it drain and end. Safe to call twice."""
        if self.child is not None:
            self.child.stop()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tidegate-spike-")
        file = Path(self._folder.name) / "proxy.toml"
        file.touch(mode=0o600)  # it holds a password
        file.write_text(proxy_configuration(self._pool_size, self._borrow_timeout, self._server))
        self.child = Child("the proxy", [sys.executable, "-m", "tidegate_proxy", "serve", file], self._log)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._accepts_logins():
            if self.child.poll() is not None:
                raise self.child.failure("did not start")
            if time.monotonic() > deadline:
                raise self.child.failure(f"accepted no login within {START_TIMEOUT:.0f} s")
            self._interruption.wait(0.1)

    def _accepts_logins(self) -> bool:
        found = _LISTENING.search(self._log.read_text(errors="replace"))
        if found is None:
            return False
        self.port = int(found[1])
        try:
            psycopg.connect(**(self.parameters | UNENCRYPTED), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False  # the proxy's log says why
        return True
