"""PostgreSQL itself, without anything in between."""

from __future__ import annotations

import subprocess

from tidegate_load.bench.endpoints.base import Endpoint, Running, Setup, client_parameters
from tidegate_load.bench.stage import Stage
from tidegate_load.postgres import PostgresNotFoundError, postgres_home


class Direct(Endpoint):
    """Clients connect to PostgreSQL."""

    key = "direct"
    title = "PostgreSQL"
    pooler = False

    def version(self) -> str | None:
        try:
            program = postgres_home("18") / "bin/postgres"
        except PostgresNotFoundError:
            return None
        return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.strip()

    def absence(self) -> str:
        return "PostgreSQL 18 is missing; `make install` brings it"

    def start(self, stage: Stage, setup: Setup) -> Running:
        return Running(client_parameters(stage, setup, stage.server.port))
