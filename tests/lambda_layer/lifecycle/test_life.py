"""What Lambda does to an environment besides invoking it, done to the layer by the local Lambda service."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.lambda_layer.helpers import connected, terminate
from tests.loadtests.lambda_service.helpers import Invoked, eventually
from tests.support.postgres import Database

from tidegate_load.lambda_service import LambdaServiceProcess, client

FUNCTIONS = Path(__file__).parent / "functions"


class Running:
    """A function in the local Lambda service, and its sessions in the database."""

    def __init__(self, service: LambdaServiceProcess, database: Database) -> None:
        self.service = service
        self.database = database
        self.boto = client(service.endpoint, max_pool_connections=8, read_timeout=60)

    def invoke(self, **event: object) -> dict[str, Any]:
        answer = Invoked(self.boto.invoke(FunctionName="orders", Payload=json.dumps(event)))
        assert answer.error is None, answer.payload
        found: dict[str, Any] = answer.payload
        return found

    def invoke_together(self, count: int, **event: object) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(count) as threads:
            return list(threads.map(lambda _: self.invoke(**event), range(count)))

    def sessions(self) -> list[int]:
        """Server processes of the function's sessions, the oldest first."""
        with self.database.server.connect() as admin:
            return [
                pid
                for (pid,) in admin.execute(
                    "SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
                    " ORDER BY backend_start",
                    (self.database.name,),
                )
            ]


@contextlib.contextmanager
def running(
    database: Database, at_init: str = "", *, env: dict[str, str] | None = None, **settings: Any
) -> Iterator[Running]:
    parameters = database.parameters
    environment = {
        "PGHOST": str(parameters["host"]),
        "PGPORT": str(parameters["port"]),
        "PGDATABASE": database.name,
        "PGUSER": database.user,
        "PGPASSWORD": database.password,
        "PGSSLMODE": "disable",
        "AT_INIT": at_init,
        **(env or {}),
    }
    functions = {"orders": f"{FUNCTIONS}:counting.handler"}
    with LambdaServiceProcess(functions, env=environment, **({"timeout": 30} | settings)) as service:
        found = Running(service, database)
        yield found
        found.boto.close()


# -- provisioned concurrency --------------------------------------------------------------------------------------


def test_a_provisioned_environment_is_connected_before_anybody_invokes_it(database: Database) -> None:
    with running(database, provisioned=2) as function:
        ready = function.sessions()
        assert len(ready) == 2
        answer = function.invoke()
        assert answer["backend"] in ready
        assert answer["type"] == "provisioned-concurrency"
        assert answer["application_name"] == "orders"


def test_a_provisioned_environment_whose_session_was_ended_meanwhile_serves_with_a_new_one(database: Database) -> None:
    with running(database, provisioned=1) as function:
        [old] = function.sessions()
        terminate(database, old)
        assert function.invoke()["backend"] != old


# -- SnapStart ----------------------------------------------------------------------------------------------------

SNAPSTART = {"AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}


@pytest.mark.parametrize("at_init", ["", "query"])
def test_no_connection_is_in_the_snapshot_and_one_is_there_after_the_restore(database: Database, at_init: str) -> None:
    with running(database, at_init, env=SNAPSTART, provisioned=1) as function:
        # The session that was closed before the snapshot may still be on its way out.
        eventually(lambda: function.sessions() == [], "no session")
        first = function.invoke()
        assert not first["connected_at_init"]
        assert function.sessions() == [first["backend"]]
        assert function.invoke()["backend"] == first["backend"]


def test_environments_restored_from_one_snapshot_draw_different_numbers(database: Database) -> None:
    with running(database, "seed", env=SNAPSTART) as function:
        answers = function.invoke_together(3, sleep=1.5)
        assert len({answer["pid"] for answer in answers}) == 3
        assert len({answer["random"] for answer in answers}) == 3


def test_a_database_that_is_away_at_the_restore_does_not_fail_it(database: Database) -> None:
    with database.server.connect() as admin:
        admin.execute(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS false')
        with running(database, env=SNAPSTART, provisioned=1) as function:
            answer = Invoked(function.boto.invoke(FunctionName="orders", Payload="{}"))
            assert answer.error == "Unhandled"
            assert answer.payload["errorType"] == "OperationalError", answer.payload
            admin.execute(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS true')
            assert function.invoke()["pid"]


def test_settings_that_are_wrong_at_the_restore_are_said_by_the_first_invocation(database: Database) -> None:
    with running(database, env=SNAPSTART | {"PGHOST": "db..example"}, provisioned=1) as function:
        answer = Invoked(function.boto.invoke(FunctionName="orders", Payload="{}"))
        assert answer.payload["errorType"] == "ConfigurationError", answer.payload
        assert "TIDEGATE_HOST" in answer.payload["errorMessage"]


# -- managed instances --------------------------------------------------------------------------------------------


def test_each_worker_of_a_managed_instance_has_one_connection_of_its_own(database: Database) -> None:
    with running(database, workers=3, provisioned=1) as function:
        answers = [answer for _ in range(3) for answer in function.invoke_together(3, sleep=0.3)]
        by_worker = {(answer["pid"], answer["backend"]) for answer in answers}
        assert {answer["type"] for answer in answers} == {"lambda-managed-instances"}
        assert len({pid for pid, _ in by_worker}) == len(by_worker) == 3
        assert set(function.sessions()) == {backend for _, backend in by_worker}


# -- the end ------------------------------------------------------------------------------------------------------


def ends(database: Database) -> list[str]:
    """How the sessions of a database ended, as PostgreSQL counts it."""
    with database.server.connect() as admin:
        admin.execute("SELECT pg_stat_clear_snapshot()")
        [[sessions, abandoned]] = admin.execute(
            "SELECT sessions, sessions_abandoned FROM pg_stat_database WHERE datname = %s", (database.name,)
        ).fetchall()
        return ["abandoned"] * abandoned + ["polite"] * (sessions - abandoned)


@pytest.mark.parametrize("at_init", ["", "handle"])
def test_where_an_extension_is_present_the_connection_is_closed_politely(
    database: Database, at_init: str, tmp_path: Path
) -> None:
    with running(database, at_init, extension=True, log_dir=tmp_path, idle_timeout=0.2) as function:
        function.invoke()
        eventually(lambda: function.sessions() == [], "the session has ended")
        eventually(lambda: function.service.stats()["orders"]["environments"] == 0, "the environment has ended")
        eventually(lambda: len(ends(database)) > 0, "PostgreSQL has counted the session")
        assert ends(database) == ["polite"]
    log = "".join(path.read_text() for path in (tmp_path / "orders").iterdir())
    assert ("own handler ran" in log) == (at_init == "handle")


def test_without_an_extension_the_connection_is_abandoned_which_is_what_the_other_tests_can_tell(
    database: Database,
) -> None:
    with running(database, idle_timeout=0.2) as function:
        function.invoke()
        eventually(lambda: function.sessions() == [], "the session has ended")
        eventually(lambda: len(ends(database)) > 0, "PostgreSQL has counted the session")
        assert ends(database) == ["abandoned"]


def test_a_program_outside_lambda_keeps_its_signals(database: Database) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert "AWS_LAMBDA_RUNTIME_API" not in os.environ
    with connected(database) as db, db.connection():
        assert signal.getsignal(signal.SIGTERM) is before
