"""What all endpoints of a run share: one PostgreSQL, its user and data, certificates, a folder."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import resource
import secrets
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trustme

from tidegate_load.bench.identity import Identities
from tidegate_load.clean_environment import clean_environment
from tidegate_load.postgres import UNENCRYPTED, EmbeddedPostgres, free_port, unprivileged_user
from tidegate_load.spike.interrupt import Interruption

HOST = "127.0.0.1"
USER = DATABASE = "bench"
RESERVE = 300
"""Open files that are no client's: logs, libraries, server connections, the event loop."""


class BenchError(Exception):
    """Something could not be measured; one line that says what and, where it is known, the remedy."""


def need_open_files(clients: int) -> None:
    """Let this process, and those that it starts, open a file per client and some more.

    Raises: BenchError when the hard limit does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = clients + RESERVE
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchError(
            f"{clients} clients need {needed} open files, but the hard limit is {hard}: "
            "raise it (ulimit -Hn) or choose fewer clients"
        )
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Stage:
    """The shared part of a run, there while entered.

    Parameters: `scale` of pgbench's tables, 100,000 rows each; `max_connections` of PostgreSQL; `interruption`, checked
    while waiting.
    Raises: BenchError, PostgresStartError, PostgresNotFoundError from entering.
    """

    def __init__(self, interruption: Interruption, *, scale: int = 10, max_connections: int = 700) -> None:
        self.interruption = interruption
        self.scale = scale
        self.password = secrets.token_hex(8)
        self.verifier = ""
        self.folder = Path()
        self._max_connections = max_connections
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._resources = contextlib.ExitStack()
        self._identities: Identities | None = None
        self.server: EmbeddedPostgres

    def __enter__(self) -> Self:
        self._temporary = tempfile.TemporaryDirectory(prefix="tidegate-bench-")
        try:
            self._prepare(Path(self._temporary.name))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End PostgreSQL and remove the folder. Safe to call twice."""
        self._resources.close()
        if hasattr(self, "server"):
            self.server.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    @property
    def certificate(self) -> Path:
        """PEM file with the certificate and its key, readable by those who need it and nobody else."""
        return self.folder / "server.pem"

    def parameters(self, **keywords: Any) -> dict[str, Any]:
        """Keyword arguments for `psycopg.connect`, directly to PostgreSQL and without TLS."""
        direct = self.server.parameters(user=USER, password=self.password, dbname=DATABASE)
        return direct | UNENCRYPTED | keywords

    def identities(self, count: int) -> Identities:
        """Clients with AWS credentials, at least so many; there from the first call on, which says how many."""
        if self._identities is None:
            self._identities = self._resources.enter_context(Identities(self.new_folder("sts"), count))
        return self._identities

    def new_folder(self, name: str) -> Path:
        """A folder of its own, which the user that runs poolers may read and write."""
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        self.hand_over(path)
        return path

    @staticmethod
    def hand_over(path: Path) -> None:
        """Make a file or folder belong to the user that runs poolers and PostgreSQL when we are root."""
        if (user := unprivileged_user()) is not None:
            os.chown(path, user.pw_uid, user.pw_gid)

    def _prepare(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o711)
        authority = trustme.CA()
        authority.issue_cert(HOST, "localhost").private_key_and_cert_chain_pem.write_to_path(str(self.certificate))
        self.certificate.chmod(0o600)
        self.hand_over(self.certificate)
        settings = {
            "max_connections": str(self._max_connections),
            "shared_buffers": "256MB",
            "max_wal_size": "1GB",
            # Neither is wanted in the middle of a round.
            "autovacuum": "off",
            "checkpoint_timeout": "1h",
        }
        self.server = EmbeddedPostgres("18", settings=settings)
        # pgagroal 2.1 crashes when a server's port has five digits (pgagroal/pgagroal issue 926).
        self.server.port = free_port(HOST, four_digits=True)
        self.server.start()
        self.server.create_user(USER, self.password)
        self.server.create_database(DATABASE, owner=USER)
        with self.server.connect() as conn:
            row = conn.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [USER]).fetchone()
            assert row is not None
            self.verifier = str(row[0])
        self.interruption.check()
        self.run([self.server.tool("pgbench"), "-i", "-q", "-s", str(self.scale)], self.parameters())

    @staticmethod
    def unprivileged() -> dict[str, Any]:
        """Keyword arguments for `subprocess.Popen` that run a program as an unprivileged user when we are root."""
        user = unprivileged_user()
        return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def run(self, arguments: list[str | Path], parameters: dict[str, Any], timeout: float = 120) -> str:
        """Run one of PostgreSQL's programs to its end; what it wrote to standard output and error.

        Parameters: `parameters` as for `psycopg.connect`; `timeout` in seconds.
        Raises: BenchError when it fails or takes too long.
        """
        with Program(arguments, parameters) as program:
            return program.finish(self.interruption, timeout)


class Program:
    """A client program of PostgreSQL, running while entered; killed if it does not end by itself."""

    def __init__(self, arguments: list[str | Path], parameters: dict[str, Any]) -> None:
        self._name = Path(arguments[0]).name
        self.process = subprocess.Popen(
            arguments,
            env=clean_environment() | libpq_environment(parameters) | _tls_capable(parameters),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._output = b""
        # Read all the time: who cannot write, waits.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self._output = self.process.stdout.read()

    def finish(self, interruption: Interruption, timeout: float) -> str:
        """Wait for its end; what it wrote. Raises: BenchError when it fails or takes more than `timeout` seconds."""
        for _ in range(max(1, int(timeout / 0.1))):
            try:
                self.process.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                interruption.check()
        else:
            raise BenchError(f"{self._name} did not end within {timeout:.0f} s")
        self._reader.join()
        output = self._output.decode(errors="replace")
        if self.process.returncode != 0:
            lines = [line for line in output.splitlines() if "error" in line.lower()] or output.splitlines() or ["?"]
            raise BenchError(f"{self._name} failed: {lines[0].strip()}")
        return output


def libpq_environment(parameters: dict[str, Any]) -> dict[str, str]:
    """The environment variables of libpq that say the same as these keyword arguments of `psycopg.connect`."""
    names = {"dbname": "PGDATABASE", "sslmode": "PGSSLMODE", "gssencmode": "PGGSSENCMODE"}
    return {names.get(key, f"PG{key.upper()}"): str(value) for key, value in parameters.items()}


def _tls_capable(parameters: dict[str, Any]) -> dict[str, str]:
    """Where TLS is wanted: have the program load psycopg's libpq, since the one in PostgreSQL's wheel has no TLS."""
    if parameters.get("sslmode", "disable") == "disable":
        return {}
    package = importlib.util.find_spec("psycopg_binary")
    if package is None or package.origin is None:
        raise BenchError("TLS is measured with the libpq of psycopg[binary], which is not installed")
    libraries = Path(package.origin).resolve().parent.with_name("psycopg_binary.libs")
    found = next(libraries.glob("libpq-*.so*"), None)
    if found is None:
        raise BenchError(f"no libpq with TLS in {libraries.name}; reinstall psycopg[binary]")
    return {"LD_PRELOAD": str(found)}
