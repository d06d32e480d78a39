"""The logs show no secret, token or value: conftest.py searches those of every test here; this shows that it can."""

from __future__ import annotations

import logging

import pytest
from tests.lambda_layer.conftest import Collector, secrets_in
from tests.lambda_layer.helpers import Context, connected
from tests.support.postgres import Database


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("the password is s3cret-db1", ()),
        ("token %s", ("host:5432/?Action=connect&X-Amz-Signature=abc",)),
        ("failed: %s", (ValueError("value-of-a-parameter"),)),
    ],
)
def test_the_search_finds_what_it_is_for(message: str, arguments: tuple[object, ...]) -> None:
    collector = Collector()
    collector.emit(logging.LogRecord("tidegate", logging.INFO, __file__, 1, message, arguments, None))
    assert secrets_in(collector.texts)


def test_what_goes_wrong_with_a_value_is_logged_without_it(database: Database, logged: list[str]) -> None:
    failures = iter(range(2))

    def work(conn: object) -> None:
        if next(failures, None) is not None:
            conn.execute(  # type: ignore[attr-defined]
                "DO $$ BEGIN RAISE EXCEPTION 'value-of-a-parameter' USING ERRCODE = '40001'; END $$"
            )

    with connected(database, password="s3cret-wrong"), connected(database) as db:
        db.transaction(work)
        with db.invocation(Context()):
            with db.connection() as conn:
                pass
            conn.execute("SELECT set_config('app.x', %s, false)", ["value-of-a-parameter"])
    text = "\n".join(logged)
    assert "no connection at INIT" in text
    assert "runs again after SQLSTATE 40001" in text
    assert "left in a transaction" in text
