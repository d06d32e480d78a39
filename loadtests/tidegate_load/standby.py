"""A hot standby of an embedded PostgreSQL, which can be promoted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tidegate_load.postgres import EmbeddedPostgres

REPLICATION_HBA = "host replication postgres 127.0.0.1/32 scram-sha-256"
"""The line of pg_hba.conf that a primary needs beside its others."""


class StandbyPostgres(EmbeddedPostgres):
    """Streams from `primary`, which must be running and have REPLICATION_HBA.

    Parameters: `name`, by which the primary knows it, for its `synchronous_standby_names`; `host`, loopback address to
    listen on, on a port of its own; `port`, where that is to be a certain one; `settings`, beside the primary's.
    """

    def __init__(
        self,
        primary: EmbeddedPostgres,
        *,
        name: str,
        host: str = "127.0.0.1",
        port: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            primary.version,
            settings={**primary.settings, **(settings or {})},
            hba=primary.hba,
            password=primary.password,
            host=host,
        )
        self.port = port
        self._primary = primary
        self.settings |= {
            "synchronous_standby_names": "",
            "primary_conninfo": (
                f"host={primary.host} port={primary.port} user={primary.superuser} password={primary.password} "
                f"application_name={name} sslmode=disable gssencmode=disable"
            ),
        }

    def _fill(self) -> None:
        assert self.folder is not None
        source: dict[str, Any] = self._primary.parameters()
        self._run(
            [
                self.tool("pg_basebackup"),
                *("--host", source["host"], "--port", str(source["port"]), "--username", source["user"]),
                *("--pgdata", self.folder / "data", "--wal-method", "stream", "--checkpoint", "fast", "--no-sync"),
            ],
            env={"PGPASSWORD": source["password"], "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"},
        )
        signal_file = self.folder / "data/standby.signal"
        signal_file.touch()
        if self._user is not None:
            os.chown(signal_file, self._user.pw_uid, self._user.pw_gid)

    def promote(self) -> None:
        """Make it a primary; returns when it takes writes."""
        assert self.folder is not None
        self._run([self.tool("pg_ctl"), "promote", "--wait", "--pgdata", self.folder / "data"])
