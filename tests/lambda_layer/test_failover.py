"""A server that was the writer before a failover, played by a real standby: writing there is tried again elsewhere."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.lambda_layer.helpers import Context, backend_of, connected
from tests.support.postgres import Database
from tests.support.proxy import eventually
from tests.support.relay import Relay

import tidegate
from tidegate_load.postgres import EmbeddedPostgres


class Standby(EmbeddedPostgres):
    """A hot standby that follows another server."""

    def __init__(self, primary: EmbeddedPostgres) -> None:
        parameters = primary.parameters()
        self._source = " ".join(f"{name}={parameters[name]}" for name in ("host", "port", "user", "password"))
        super().__init__(primary.version, settings={"primary_conninfo": self._source}, password=primary.password)

    def _create(self) -> None:
        super()._create()
        assert self.folder is not None
        backup = self.folder / "backup"
        command: list[str | Path] = [self.tool("pg_basebackup"), "--pgdata", backup, "--checkpoint", "fast"]
        command += ["--dbname", self._source]
        process = self._popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output.decode()
        (self.folder / "data").rename(self.folder / "unused")
        backup.rename(self.folder / "data")
        signal = self.folder / "data/standby.signal"
        signal.touch()
        if self._user is not None:
            os.chown(signal, self._user.pw_uid, self._user.pw_gid)


@pytest.fixture(scope="module")
def primary() -> Iterator[EmbeddedPostgres]:
    hba = ("host all all 127.0.0.1/32 scram-sha-256", "host replication all 127.0.0.1/32 scram-sha-256")
    with EmbeddedPostgres("18", hba=hba) as server:
        server.create_user("orders", "right")
        with server.connect() as admin:
            admin.execute("CREATE TABLE work (id int)")
            admin.execute("GRANT ALL ON work TO orders")
        yield server


@pytest.fixture
def standby(primary: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    with Standby(primary) as server:
        eventually(lambda: follows(server), what="the standby's table")
        yield server


def follows(server: EmbeddedPostgres) -> bool:
    with server.connect() as admin:
        return admin.execute("SELECT to_regclass('work') IS NOT NULL").fetchone() == (True,)


def database(server: EmbeddedPostgres) -> Database:
    return Database(server, "postgres", "orders", "right")


def rows(server: EmbeddedPostgres, number: int) -> int:
    with server.connect() as admin:
        [[found]] = admin.execute("SELECT count(*) FROM work WHERE id = %s", (number,)).fetchall()
    return int(found)


def test_a_transaction_that_an_old_writer_refuses_runs_again_on_the_new_one(
    primary: EmbeddedPostgres, standby: EmbeddedPostgres, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(standby.port)
    refusals: list[str | None] = []

    def insert(conn: psycopg.Connection[Any]) -> str:
        try:
            conn.execute("INSERT INTO work VALUES (1)")
        except psycopg.errors.ReadOnlySqlTransaction as error:
            refusals.append(error.sqlstate)
            # The third attempt finds the name changed.
            if len(refusals) == 2:
                relay.target = (primary.host, primary.port)
            raise
        return "done"

    with connected(database(primary), port=relay.port) as db, db.invocation(Context()):
        assert db.transaction(insert) == "done"
    assert refusals == ["25006", "25006"]
    assert rows(primary, 1) == 1


def test_a_block_raises_what_the_old_writer_says_and_the_next_one_gets_another_connection(
    primary: EmbeddedPostgres, standby: EmbeddedPostgres, relay_to: Callable[[int], Relay]
) -> None:
    relay = relay_to(standby.port)
    with connected(database(primary), port=relay.port) as db, db.invocation(Context()):
        with db.connection() as conn:
            assert conn.execute("SELECT count(*) FROM work").fetchone() is not None
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), db.connection() as conn:
            conn.execute("INSERT INTO work VALUES (2)")
        relay.target = (primary.host, primary.port)
        with db.connection() as conn:
            conn.execute("INSERT INTO work VALUES (2)")
    assert rows(primary, 2) == 1


def test_reading_from_a_standby_is_no_reason_to_leave_it(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    with connected(database(primary), port=standby.port) as db:
        pid = backend_of(db)
        with db.invocation(Context()):
            found = db.transaction(lambda conn: conn.execute("SELECT pg_is_in_recovery()").fetchone())
        assert found == (True,)
        assert backend_of(db) == pid


def test_a_standby_that_is_promoted_is_written_to_on_the_same_connection(
    primary: EmbeddedPostgres, standby: EmbeddedPostgres
) -> None:
    with connected(database(primary), port=standby.port) as db:
        pid = backend_of(db)
        with standby.connect() as admin:
            assert admin.execute("SELECT pg_promote(true, 60)").fetchone() == (True,)
        with db.invocation(Context()):
            db.transaction(lambda conn: conn.execute("INSERT INTO work VALUES (3)"))
        assert backend_of(db) == pid
    assert rows(standby, 3) == 1


def test_a_writer_that_never_comes_is_an_error_that_says_so(
    primary: EmbeddedPostgres, standby: EmbeddedPostgres
) -> None:
    with (
        connected(database(primary), port=standby.port, retry_attempts=2) as db,
        pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as caught,
        db.invocation(Context()),
    ):
        db.transaction(lambda conn: conn.execute("INSERT INTO work VALUES (4)"))
    assert not isinstance(caught.value, tidegate.TidegateError)
    assert "run 3 times" in "".join(caught.value.__notes__)
