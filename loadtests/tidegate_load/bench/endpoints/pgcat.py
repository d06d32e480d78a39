"""PgCat, a pooler in Rust."""

from __future__ import annotations

from pathlib import Path

from tidegate_load.bench.endpoints.base import PathEndpoint, Setup
from tidegate_load.bench.stage import DATABASE, HOST, USER, Stage


class PgCat(PathEndpoint):
    """One PgCat process with one worker thread: one core, as the others have."""

    key = "pgcat"
    title = "PgCat"
    program = "pgcat"

    def remark(self, setup: Setup) -> str:
        words = ["its clients log in by MD5: it has no SCRAM towards them"]
        if setup.sessions:
            words.append("it carries no session state, so it ran as a session pool")
        return f"({'; '.join(words)})"

    def configure(self, stage: Stage, setup: Setup, folder: Path, port: int) -> list[str | Path]:
        size = max(setup.pool_size, setup.clients) if setup.sessions else setup.pool_size
        tls = f'tls_certificate = "{stage.certificate}"\ntls_private_key = "{stage.certificate}"\n' if setup.tls else ""
        file = folder / "pgcat.toml"
        file.write_text(f"""\
[general]
host = "{HOST}"
port = {port}
worker_threads = 1
connect_timeout = 30000
enable_prometheus_exporter = false
log_client_connections = false
log_client_disconnections = false
admin_username = "admin"
admin_password = "{stage.password}"
{tls}
[pools.{DATABASE}]
pool_mode = "{"session" if setup.sessions else "transaction"}"
query_parser_enabled = false
prepared_statements_cache_size = 200

[pools.{DATABASE}.users.0]
username = "{USER}"
password = "{stage.password}"
pool_size = {size}

[pools.{DATABASE}.shards.0]
servers = [["{stage.server.host}", {stage.server.port}, "primary"]]
database = "{DATABASE}"
""")
        return [file]
