"""pgagroal, a pooler with a process per client."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tidegate_load.bench.endpoints.base import PathEndpoint, Setup, find_program
from tidegate_load.bench.stage import DATABASE, HOST, USER, BenchError, Stage
from tidegate_load.clean_environment import clean_environment

LISTEN_BACKLOG = 2048

MOST_CLIENTS = 1200
"""A process for each; more of them are a test of the machine's memory and of its scheduler."""

_ADMIN_TIMEOUT = 20.0


class Pgagroal(PathEndpoint):
    """One pgagroal with its transaction pipeline."""

    key = "pgagroal"
    title = "pgagroal"
    program = "pgagroal"
    settling = 1.0  # a client that comes while the first server connections are made gets no answer, and none after it

    def remark(self, setup: Setup) -> str:
        carried = setup.sessions or setup.prepared
        return "carries no session state and no prepared statements, so its session pipeline ran" if carried else ""

    def unfit(self, setup: Setup) -> str:
        if setup.clients > setup.pool_size and not (setup.sessions or setup.prepared):
            # Seen with 2.1: of 100 clients that stay, 20 get a row, and 80 none within a minute.
            return "its transaction pipeline serves no more clients at a time than it has server connections"
        return f"it has a process per client, {MOST_CLIENTS} at most here" if setup.clients > MOST_CLIENTS else ""

    def command(self, stage: Stage, setup: Setup, folder: Path, port: int) -> list[str | Path]:
        # In its home it looks for the key that its users' passwords are encrypted with.
        return ["env", f"HOME={folder}", *super().command(stage, setup, folder, port)]

    def configure(self, stage: Stage, setup: Setup, folder: Path, port: int) -> list[str | Path]:
        session = setup.sessions or setup.prepared
        size = max(setup.pool_size, setup.clients) if session else setup.pool_size
        tls = (
            f"tls = on\ntls_cert_file = {stage.certificate}\ntls_key_file = {stage.certificate}\n" if setup.tls else ""
        )
        # io_uring, its own choice, takes twice the CPU here and fails in the session pipeline. Without a timeout those
        # that wait for a server connection spin, which costs nine tenths of the throughput at 64 clients.
        (folder / "pgagroal.conf").write_text(f"""\
[pgagroal]
host = {HOST}
port = {port}
unix_socket_dir = {folder}
log_type = console
log_level = error
log_connections = off
log_disconnections = off
ev_backend = epoll
update_process_title = never
backlog = {LISTEN_BACKLOG}
max_connections = {size}
blocking_timeout = 60
idle_timeout = 0
pipeline = {"session" if session else "transaction"}
allow_unknown_users = false
{tls}
[primary]
host = {stage.server.host}
port = {stage.server.port}
""")
        (folder / "pgagroal_hba.conf").write_text("host all all all scram-sha-256\n")
        # The transaction pipeline demands a user whose connections are made beforehand.
        (folder / "pgagroal_databases.conf").write_text(f"{DATABASE} {USER} {size} {setup.pool_size} 1\n")
        users = folder / "pgagroal_users.conf"
        self._administer(folder, "-P", f"Aa1!{stage.password}", "master-key")
        self._administer(folder, "-f", users, "-U", USER, "-P", stage.password, "user", "add")
        files = {"-c": "pgagroal.conf", "-a": "pgagroal_hba.conf", "-l": "pgagroal_databases.conf", "-u": users.name}
        return [part for option, name in files.items() for part in (option, folder / name)]

    def _administer(self, home: Path, *arguments: str | Path) -> None:
        program = find_program("pgagroal-admin")
        if program is None:
            raise BenchError("pgagroal: its pgagroal-admin is not on PATH")
        try:
            subprocess.run(
                [program, *arguments],
                cwd=home,
                env=clean_environment() | {"HOME": str(home)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=True,
                timeout=_ADMIN_TIMEOUT,
                **Stage.unprivileged(),
            )
        except subprocess.CalledProcessError as error:
            raise BenchError(f"pgagroal-admin failed: {' '.join((error.stderr or error.stdout).split())}") from None
        except (OSError, subprocess.TimeoutExpired) as error:
            # Without its arguments, where the password is.
            raise BenchError(f"pgagroal-admin did not run: {type(error).__name__}") from None
