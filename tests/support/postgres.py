"""Real PostgreSQL servers: one per test process and version, databases and users per test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tidegate_load.postgres import EmbeddedPostgres

_names = itertools.count(1)


@dataclass(frozen=True)
class Database:
    """A database of a test's own and the ordinary user that owns it."""

    server: EmbeddedPostgres
    name: str
    user: str
    password: str

    @property
    def parameters(self) -> dict[str, object]:
        """Keyword arguments for `psycopg.connect`, directly to PostgreSQL."""
        return self.server.parameters(user=self.user, password=self.password, dbname=self.name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """PostgreSQL 18, shared by the tests of one process."""
    with EmbeddedPostgres("18", settings={"max_connections": "100"}) as server:
        yield server


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> Iterator[Database]:
    """A fresh database with an owner of its own, dropped afterwards."""
    name = f"db{next(_names)}"
    password = "s3cret-" + name
    postgres.create_user(name, password)
    postgres.create_database(name, owner=name)
    yield Database(postgres, name, name, password)
    with postgres.connect() as conn:
        conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        conn.execute(f'DROP ROLE "{name}"')
