"""Metrics are written by Powertools, in its conventions, only where it is, and not before there is something to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.lambda_layer.helpers import Context, connected, plain_connection, terminate
from tests.support.postgres import Database
from tests.support.relay import Relay

import tidegate
from tidegate import metrics

LAYER = Path(__file__).parents[2] / "lambda_layer"


@pytest.fixture(autouse=True)
def _in_lambda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "orders-api")
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Shop")
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "orders")
    monkeypatch.setattr(metrics, "recorder", metrics.Recorder())


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def names(written: list[dict[str, Any]]) -> set[str]:
    return {m["Name"] for line in written for group in line["_aws"]["CloudWatchMetrics"] for m in group["Metrics"]}


def test_a_cold_start_is_measured_in_powertools_namespace_and_service(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    with connected(database) as db:
        assert capsys.readouterr().out == ""
        with db.invocation(Context()), db.connection():
            pass
    (line,) = lines(capsys)
    assert names([line]) == {"ColdStartConnect", "Reuse"}
    (group,) = line["_aws"]["CloudWatchMetrics"]
    assert (group["Namespace"], group["Dimensions"], line["service"]) == ("Shop", [["service"]], "orders")
    assert {"Name": "ColdStartConnect", "Unit": "Milliseconds"} in group["Metrics"]
    assert 0 < line["ColdStartConnect"][0] < 60_000


def test_reuse_alone_is_gathered_and_written_once_a_minute(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(database) as db:

        @db.handler
        def handler(event: object, context: object) -> None:
            with db.connection():
                pass

        handler({}, Context())
        capsys.readouterr()
        for _ in range(5):
            handler({}, Context())
        assert capsys.readouterr().out == ""
        monkeypatch.setattr(metrics, "REUSE_EVERY", 0.0)
        handler({}, Context())
    (line,) = lines(capsys)
    assert line["Reuse"] == [6.0]


def test_what_goes_wrong_is_counted(
    database: Database, relay_to: Callable[[int], Relay], capsys: pytest.CaptureFixture[str]
) -> None:
    relay = relay_to(database.server.port)
    with connected(database, port=relay.port) as db:
        with db.connection() as conn:
            pid = conn.info.backend_pid
        terminate(database, pid)
        with db.invocation(Context()):
            with db.connection() as conn:
                pass
            conn.execute("SELECT 1")  # outside its block: left in a transaction
        with pytest.raises(tidegate.DeadlineExceeded), db.invocation(Context(1.0)), db.connection() as conn:
            conn.execute("SELECT pg_sleep(60)")
        with db.invocation(Context()):
            relay.reset_at(b"SELECT", after_answer=True)
            db.transaction(lambda conn: conn.execute("SELECT 1"))
    written = lines(capsys)
    assert {"StaleReplaced", "Connect", "LeakedTransaction", "DeadlineExceeded", "Retry"} <= names(written)
    (retry,) = [line for line in written if "Retry" in line]
    assert retry["reason"] == "connection lost"
    assert retry["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["reason", "service"]]


def test_they_can_be_turned_off_and_are_not_written_outside_lambda(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(database, metrics=False) as db, db.invocation(Context()), db.connection():
        pass
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_NAME")
    with connected(database) as db, db.invocation(Context()), db.connection():
        pass
    assert capsys.readouterr().out == ""


PROGRAM = """
import sys
import tidegate

class Absent:
    def find_spec(self, name, *rest):
        if name.split(".")[0] == "aws_lambda_powertools":
            seen.append(name)
            raise ImportError(name)

seen = []
sys.meta_path.insert(0, Absent())
db = tidegate.connect()
assert not seen, "Powertools was looked for before there was anything to write"
for _ in range(3):
    with db.invocation(), db.connection() as conn:
        conn.execute("SET work_mem = '1MB'")
assert len(seen) == 1, seen
db.close()
"""


def test_without_powertools_nothing_is_written_and_nothing_fails(database: Database) -> None:
    with plain_connection(database) as conn:
        assert conn.info.port
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(LAYER),
        "AWS_LAMBDA_FUNCTION_NAME": "orders-api",
        "PGHOST": str(database.parameters["host"]),
        "PGPORT": str(database.parameters["port"]),
        "PGDATABASE": database.name,
        "PGUSER": database.user,
        "PGPASSWORD": database.password,
        "PGSSLMODE": "disable",
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_token_is_counted_when_it_is_signed_and_not_when_it_is_used_again(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "AKIDEXAMPLE")
    keywords = {"auth": "rds-iam", "region": "eu-west-1", "password": None}
    with connected(database, **keywords) as db:  # refused: this server knows nothing of tokens
        for _ in range(2):
            with pytest.raises(psycopg.OperationalError), db.invocation(Context()), db.connection():
                pass
    counts = [line["TokenSigned"] for line in lines(capsys) if "TokenSigned" in line]
    assert sum(count for (count,) in counts) >= 1
