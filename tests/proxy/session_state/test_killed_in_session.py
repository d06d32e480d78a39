"""A client full of session state is cut off after every message: the next one finds a pristine session."""

from __future__ import annotations

import itertools

import pytest
from tests.proxy.adversity.helpers import assert_pristine, finish, reset
from tests.support.proxy import StartProxy
from tests.support.rawclient import RawClient, bind, describe, execute, parse

from tidegate_proxy.protocol import encode


def extended(sql: bytes, name: bytes = b"") -> list[bytes]:
    return [parse(name, sql), bind(b"", name), describe(b"P", b""), execute()]


SCRIPT = [
    encode.query("SET work_mem TO '1234kB'"),
    *extended(b"SET application_name TO 'mine'"),
    *extended(b"SELECT set_config('app.x', 'mine', false)", b"set"),
    encode.sync(),
    encode.query("BEGIN"),
    encode.query("RESET work_mem"),
    encode.query("SET TimeZone TO 'Asia/Tokyo'; SAVEPOINT s"),
    *extended(b"SELECT pg_advisory_lock(5)"),
    encode.flush(),
    encode.query("ROLLBACK TO s; LISTEN mine"),
    encode.query("COMMIT"),
    encode.query("SELECT nextval('numbers')"),
    *extended(b"SELECT currval('numbers')"),
    encode.sync(),
    encode.query("SET search_path TO pg_temp, public; CREATE TABLE mine (a int)"),
    encode.query("PREPARE mine AS SELECT 1"),
    encode.query("EXECUTE set"),
    encode.query("DO $$ BEGIN PERFORM set_config('lock_timeout', '9s', false); END $$"),
    encode.query("DECLARE mine CURSOR WITH HOLD FOR SELECT generate_series(1, 9)"),
    encode.query("SELECT setseed(0.5)"),
    encode.query("DISCARD ALL"),
    encode.query("SET standard_conforming_strings TO off; SET client_encoding TO 'LATIN1'"),
    encode.query("CREATE TEMP TABLE mine (a int)"),
    *extended(b"DROP TABLE mine"),
    encode.sync(),
    encode.query("SET work_mem TO '2MB'; SELECT 1/0"),
    encode.query("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"),
]
ENDS = list(itertools.accumulate(len(message) for message in SCRIPT))
LAST_VALUE = "SELECT lastval()"


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("session_check", ["suspect", "always"])
def test_a_session_that_is_cut_off(start_proxy: StartProxy, session_check: str, answered: bool) -> None:
    proxy = start_proxy(default_pool_size=1, session_check=session_check)
    whole = b"".join(SCRIPT)
    with RawClient(proxy.parameters) as first:
        first.query("CREATE SEQUENCE numbers")
    for end in ENDS:
        client = RawClient(proxy.parameters)
        if answered:
            # So far that nothing is under way when it vanishes.
            client.send(whole[:end] + encode.sync())
            client.kinds_until()
            finish(client)
        else:
            client.send(whole[:end])
            reset(client)
        with RawClient(proxy.parameters) as fresh:
            assert_pristine(fresh, f"after {end} bytes")
            assert "E" in [kind for kind, _ in fresh.query(LAST_VALUE)], f"after {end} bytes"
