"""A primary with a synchronous standby, and a proxy process in front of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.e2e.failover.writers import TABLE
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, proxy_config

from tidegate_load.postgres import EmbeddedPostgres
from tidegate_load.standby import REPLICATION_HBA, StandbyPostgres

HBA = ("host all all 127.0.0.1/32 scram-sha-256", REPLICATION_HBA)
SETTINGS = {"max_connections": "150", "wal_level": "replica", "max_wal_senders": "5"}


NO_CONTROL = """
CREATE FUNCTION no_control() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('application_name') LIKE 'tidegate %' THEN
        RAISE EXCEPTION 'not now' USING ERRCODE = '57P03';
    END IF;
END $$;
CREATE EVENT TRIGGER no_control ON login EXECUTE FUNCTION no_control();
ALTER EVENT TRIGGER no_control ENABLE ALWAYS;
SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE application_name LIKE 'tidegate %';
"""
"""Lets in all but control connections, as a server may do that is all but full."""


@dataclass
class Pair:
    """A primary, and a standby that has confirmed every commit before it is acknowledged. Same port, other address."""

    primary: EmbeddedPostgres
    standby: StandbyPostgres
    database: Database


def with_application(server: EmbeddedPostgres) -> Database:
    """Make the application's user, database and table on a server of the test's own."""
    server.create_user("app", "s3cret-app")
    server.create_database("app", owner="app")
    database = Database(server, "app", "app", "s3cret-app")
    with psycopg.connect(**server.parameters(user="app", password="s3cret-app", dbname="app")) as conn:
        conn.execute(TABLE)
    return database


def start_pair(stack: ExitStack, port: Callable[[EmbeddedPostgres], int]) -> Pair:
    """Start both; they end with `stack`. Parameters: `port`, of the standby, given the primary."""
    primary = stack.enter_context(EmbeddedPostgres("18", settings=SETTINGS, hba=HBA))
    database = with_application(primary)
    # Several test processes may have a port of the same number at 127.0.0.1 and 127.0.0.2.
    standby = StandbyPostgres(primary, name="standby", host="127.0.0.2", port=port(primary))
    stack.enter_context(standby)
    primary.settings["synchronous_standby_names"] = "standby"
    primary.reload()
    return Pair(primary, standby, database)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        yield start_pair(stack, lambda primary: primary.port)


@pytest.fixture
def lone_server() -> Iterator[Database]:
    """A server of the test's own, with the application's database."""
    with EmbeddedPostgres("18", settings=SETTINGS) as server:
        yield with_application(server)


MakeProxy = Callable[..., ProxyProcess]


@pytest.fixture
def proxy_for(tmp_path: Path) -> Iterator[MakeProxy]:
    """Start a proxy for a database: `proxy_for(database, {"host": ...}, default_pool_size=4)`; stopped afterwards."""
    with ExitStack() as stack:

        def start(database: Database, database_settings: dict[str, Any], **settings: Any) -> ProxyProcess:
            folder = Path(tempfile.mkdtemp(dir=tmp_path))
            proxy = ProxyProcess(folder, database, proxy_config(database, settings, database_settings))
            stack.callback(proxy.close)
            proxy.wait_until_listening()
            return proxy

        yield start
