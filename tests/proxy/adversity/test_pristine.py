"""The check for a pristine session finds what may be left in one; what it does not find, no other test here would."""

from __future__ import annotations

import pytest
from tests.proxy.adversity.helpers import assert_pristine
from tests.support.postgres import Database
from tests.support.rawclient import RawClient


def test_a_new_session_is_pristine(database: Database) -> None:
    with RawClient(database.parameters) as session:
        assert_pristine(session)


@pytest.mark.parametrize(
    "sql",
    [
        "BEGIN",
        "SET work_mem TO '1234kB'",
        "SET app.x TO 'mine'",
        "SELECT set_config('role', session_user, false)",
        "CREATE TEMP TABLE t (a int)",
        "CREATE TYPE pg_temp.e AS ENUM ('a')",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SELECT pg_advisory_lock(1)",
        "PREPARE p AS SELECT 1",
        "PREPARE tidegate_p AS SELECT 1",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT",
        "BEGIN; DECLARE c CURSOR FOR SELECT 1",
        "LISTEN c",
        "CREATE SEQUENCE s; SELECT nextval('s')",
    ],
)
def test_what_is_left_in_a_session_is_found(database: Database, sql: str) -> None:
    with RawClient(database.parameters) as session:
        assert "E" not in [kind for kind, _ in session.query(sql)]
        with pytest.raises(AssertionError):
            assert_pristine(session)


def test_another_session_user_is_found(database: Database) -> None:
    with RawClient(database.parameters) as session:
        session.parameters = database.parameters | {"user": "somebody"}
        with pytest.raises(AssertionError):
            assert_pristine(session)
