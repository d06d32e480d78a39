"""pgagroal, a pooler with a process per client."""

from __future__ import annotations

from pathlib import Path

from tidegate_load.bench.endpoints.base import PathEndpoint, Setup
from tidegate_load.bench.stage import DATABASE, HOST, USER, BenchError, Stage

LISTEN_BACKLOG = 2048


class Pgagroal(PathEndpoint):
    """One pgagroal with its transaction pipeline."""

    key = "pgagroal"
    title = "pgagroal"
    program = "pgagroal"

    def remark(self, setup: Setup) -> str:
        carried = setup.sessions or setup.prepared
        return "carries no session state and no prepared statements, so its session pipeline ran" if carried else ""

    def configure(self, stage: Stage, setup: Setup, folder: Path, port: int) -> list[str | Path]:
        if setup.clients > 10_000:
            raise BenchError("pgagroal serves no more than 10000 clients")
        session = setup.sessions or setup.prepared
        size = max(setup.pool_size, setup.clients) if session else setup.pool_size
        tls = (
            f"tls = on\ntls_cert_file = {stage.certificate}\ntls_key_file = {stage.certificate}\n" if setup.tls else ""
        )
        (folder / "pgagroal.conf").write_text(f"""\
[pgagroal]
host = {HOST}
port = {port}
unix_socket_dir = {folder}
log_type = console
log_level = warn
log_connections = off
log_disconnections = off
backlog = {LISTEN_BACKLOG}
max_connections = {size}
blocking_timeout = 0
idle_timeout = 0
pipeline = {"session" if session else "transaction"}
allow_unknown_users = true
{tls}
[primary]
host = {stage.server.host}
port = {stage.server.port}
""")
        (folder / "pgagroal_hba.conf").write_text("host all all all all\n")
        (folder / "pgagroal_databases.conf").write_text(f"{DATABASE} {USER} {size} 0 0\n")
        files = {"-c": "pgagroal.conf", "-a": "pgagroal_hba.conf", "-l": "pgagroal_databases.conf"}
        return [part for option, name in files.items() for part in (option, folder / name)]
