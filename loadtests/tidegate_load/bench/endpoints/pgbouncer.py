"""PgBouncer, configured to be as fast as it can be and to do the same as the others."""

from __future__ import annotations

import re
from pathlib import Path

from tidegate_load.bench.endpoints.base import PathEndpoint, Setup
from tidegate_load.bench.stage import DATABASE, HOST, USER, Stage

LISTEN_BACKLOG = 2048
"""In place of PgBouncer's default of 128, which costs a storm a second of retransmitted SYNs."""


class PgBouncer(PathEndpoint):
    """PgBouncer, in one process or in several that share a port."""

    key = "pgbouncer"
    title = "PgBouncer"
    program = "pgbouncer"
    shares_port = True

    def _carries_prepared(self) -> bool:
        found = re.search(r"(\d+)\.(\d+)", self.version() or "")
        return found is not None and (int(found[1]), int(found[2])) >= (1, 21)

    def _pool(self, setup: Setup) -> tuple[str, int]:
        """Mode and size."""
        if setup.sessions or (setup.prepared and not self._carries_prepared()):
            return "session", max(setup.pool_size, setup.clients)
        return "transaction", setup.pool_size // setup.processes

    def remark(self, setup: Setup) -> str:
        mode, size = self._pool(setup)
        if mode == "transaction":
            return ""
        why = "session state" if setup.sessions else "prepared statements before 1.21"
        return f"cannot carry {why}, so it ran as a session pool of {size} server connections"

    def command(self, stage: Stage, setup: Setup, folder: Path, port: int) -> list[str | Path]:
        one = super().command(stage, setup, folder, port)
        if setup.processes == 1:
            return one
        # They get the signal that ends them, too; the shell waits until they are gone.
        return ["sh", "-c", "trap '' TERM; " + '"$@" & ' * setup.processes + "wait", "sh", *one]

    def configure(self, stage: Stage, setup: Setup, folder: Path, port: int) -> list[str | Path]:
        mode, size = self._pool(setup)
        # The verifier and not the password: with it the expensive part of SCRAM is never done again.
        (folder / "users.txt").write_text(f'"{USER}" "{stage.verifier}"\n')
        lines = [
            "[databases]",
            f"{DATABASE} = host={stage.server.host} port={stage.server.port} dbname={DATABASE}",
            "[pgbouncer]",
            f"listen_addr = {HOST}",
            f"listen_port = {port}",
            f"listen_backlog = {LISTEN_BACKLOG}",
            "unix_socket_dir =",
            "auth_type = scram-sha-256",
            f"auth_file = {folder / 'users.txt'}",
            f"pool_mode = {mode}",
            f"default_pool_size = {size}",
            f"max_client_conn = {setup.clients + 100}",
            "server_tls_sslmode = disable",
            "log_connections = 0",
            "log_disconnections = 0",
            "log_stats = 0",
        ]
        if setup.processes > 1:
            lines.append("so_reuseport = 1")
        if self._carries_prepared():
            lines.append("max_prepared_statements = 200")
        if setup.tls:
            lines += [
                "client_tls_sslmode = require",
                f"client_tls_key_file = {stage.certificate}",
                f"client_tls_cert_file = {stage.certificate}",
            ]
        file = folder / "pgbouncer.ini"
        file.write_text("\n".join(lines) + "\n")
        return [file]
