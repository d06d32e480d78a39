"""Odyssey, Yandex's pooler."""

from __future__ import annotations

from pathlib import Path

from tidegate_load.bench.endpoints.base import PathEndpoint, Setup
from tidegate_load.bench.stage import DATABASE, HOST, USER, Stage

LISTEN_BACKLOG = 2048


class Odyssey(PathEndpoint):
    """One Odyssey process with one worker thread: one core, as the others have."""

    key = "odyssey"
    title = "Odyssey"
    program = "odyssey"

    def remark(self, setup: Setup) -> str:
        return "carries no session state, so it ran as a session pool" if setup.sessions else ""

    def configure(self, stage: Stage, setup: Setup, folder: Path, port: int) -> list[str | Path]:
        mode = "session" if setup.sessions else "transaction"
        size = max(setup.pool_size, setup.clients) if setup.sessions else setup.pool_size
        tls = (
            f'tls "require"\n  tls_cert_file "{stage.certificate}"\n  tls_key_file "{stage.certificate}"'
            if setup.tls
            else 'tls "disable"'
        )
        # Prepared statements are carried only where `pool_discard` is off.
        file = folder / "odyssey.conf"
        file.write_text(f"""\
daemonize no
workers 1
resolvers 1
log_to_stdout yes
log_format "%p %t %l %m\\n"
log_session no
log_query no
log_stats no
client_max {setup.clients + 100}
listen {{
  host "{HOST}"
  port {port}
  backlog {LISTEN_BACKLOG}
  {tls}
}}
storage "postgres" {{
  type "remote"
  host "{stage.server.host}"
  port {stage.server.port}
}}
database "{DATABASE}" {{
  user "{USER}" {{
    authentication "scram-sha-256"
    password "{stage.password}"
    storage "postgres"
    storage_user "{USER}"
    storage_password "{stage.password}"
    pool "{mode}"
    pool_size {size}
    pool_discard no
    pool_reserve_prepared_statement {"yes" if setup.prepared and mode == "transaction" else "no"}
  }}
}}
""")
        return [file]
