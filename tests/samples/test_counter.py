"""Both counting functions, loaded as Lambda loads them: what they say was committed is what the table holds."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from tests.support.postgres import Database

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture
def counted(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    with psycopg.connect(**database.parameters) as conn:  # type: ignore[arg-type]
        conn.execute((SAMPLES / "counter/schema.sql").read_bytes())
    for name, value in (
        ("PGHOST", database.server.host),
        ("PGPORT", str(database.server.port)),
        ("PGDATABASE", database.name),
        ("PGUSER", database.user),
        ("PGPASSWORD", database.password),
        ("PGSSLMODE", "disable"),
    ):
        monkeypatch.setenv(name, value)
    return database


@pytest.fixture(params=["counter", "counter_direct"])
def function(request: pytest.FixtureRequest, counted: Database) -> Iterator[ModuleType]:
    path = SAMPLES / request.param / "function.py"
    spec = importlib.util.spec_from_file_location(f"sample_{request.param}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    (module.db if hasattr(module, "db") else module.conn).close()


def invoke(function: ModuleType, event: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = function.handler(event, None)
    return answer


def test_a_named_row_goes_up_by_one_each_time(function: ModuleType) -> None:
    assert invoke(function, {"id": 7}) == {"committed": True, "id": 7, "value": 1}
    assert invoke(function, {"id": 7}) == {"committed": True, "id": 7, "value": 2}


def test_the_sum_of_the_table_is_the_number_of_answers_that_said_committed(
    function: ModuleType, counted: Database
) -> None:
    answers = [invoke(function, {}) for _ in range(25)]
    assert all(answer["committed"] and 1 <= answer["id"] <= 1000 for answer in answers)
    with counted.server.connect(dbname=counted.name) as conn:
        assert conn.execute("SELECT sum(value), count(*) FROM counter").fetchone() == (25, 1000)


def test_a_row_that_is_not_there_is_an_error_and_nothing_is_counted(function: ModuleType, counted: Database) -> None:
    with pytest.raises(AssertionError, match="no row 1001"):
        invoke(function, {"id": 1001})
    with counted.server.connect(dbname=counted.name) as conn:
        assert conn.execute("SELECT sum(value) FROM counter").fetchone() == (0,)
