"""`session_check = "always"`: what functions change inside is found, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.proxy.session_state.test_found_by_mirrors import setting
from tests.support.postgres import Database
from tests.support.proxy import StartProxy, eventually
from tests.support.rawclient import RawClient


@pytest.fixture
def other_role(database: Database) -> Iterator[str]:
    """A role that the test's user may become."""
    role = f"other_{database.name}"
    with database.server.connect() as admin:
        admin.execute(f"CREATE ROLE {role}")
        admin.execute(f"GRANT {role} TO {database.user}")
    yield role
    with database.server.connect() as admin:
        admin.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("inside", "name", "other", "own"),
    [
        ("set_config('work_mem', '1234kB', false)", "work_mem", "4MB", "1234kB"),
        ("set_config('role', 'ROLE', false)", "role", "none", "ROLE"),
    ],
)
def test_parameters_that_a_function_sets(
    start_proxy: StartProxy, other_role: str, inside: str, name: str, other: str, own: str
) -> None:
    proxy = start_proxy(default_pool_size=1, session_check="always")
    body = inside.replace("ROLE", other_role)
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        one.query(f"CREATE FUNCTION quiet() RETURNS text LANGUAGE sql AS $$ SELECT {body} $$")
        one.query("SELECT quiet()")
        for _ in range(2):
            assert setting(two, name) == other
            assert setting(one, name) == own.replace("ROLE", other_role)
        one.query(f"RESET {name}")
        assert setting(two, name) == other
        assert setting(one, name) == other


@pytest.mark.parametrize(
    ("inside", "end"),
    [
        ("CREATE TEMP TABLE t (a int)", "DROP TABLE t"),
        ("PERFORM pg_advisory_lock(1)", "SELECT pg_advisory_unlock(1)"),
        ("EXECUTE 'LISTEN c'", "UNLISTEN c"),
    ],
)
def test_state_that_a_function_leaves_pins(start_proxy: StartProxy, inside: str, end: str) -> None:
    proxy = start_proxy(default_pool_size=2, session_check="always")
    with RawClient(proxy.parameters) as one:
        one.query(f"CREATE FUNCTION quiet() RETURNS void LANGUAGE plpgsql AS $$ BEGIN {inside}; END $$")
        assert "E" not in [kind for kind, _ in one.query("SELECT quiet()")]
        eventually(lambda: "pinned to its server connection" in proxy.log)
        one.query(end)
        eventually(lambda: "no longer pinned" in proxy.log)
