"""A replication connection cannot be shared: who asks for one is told so, and nobody else notices."""

from __future__ import annotations

import psycopg
import pytest
from tests.support.proxy import ProxyProcess
from tests.support.rawclient import RawClient

from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.decode import parse_error_fields


@pytest.mark.parametrize("value", ["database", "true", "on", "1"])
def test_a_driver_that_asks_for_replication_is_refused(narrow_proxy: ProxyProcess, value: str) -> None:
    with narrow_proxy.connect() as other:
        with pytest.raises(psycopg.OperationalError, match="replication"):
            narrow_proxy.connect(replication=value)
        assert other.execute("SELECT 1").fetchone() == (1,)
    assert narrow_proxy.process.poll() is None


@pytest.mark.parametrize("value", ["database", "true"])
def test_the_refusal_is_fatal_and_says_why(narrow_proxy: ProxyProcess, value: str) -> None:
    identity = {"user": narrow_proxy.database.user, "database": narrow_proxy.database.name}
    with RawClient(narrow_proxy.parameters, login=False) as client:
        client.send(encode.startup_message(identity | {"replication": value}))
        kind, body = client.read()
        assert kind == "E"
        error = parse_error_fields(body)
        assert (error["S"], error["C"]) == ("FATAL", "0A000")
        assert "replication" in error["M"]
        assert client.is_closed()
    # It never got as far as to a server connection.
    assert narrow_proxy.server_pids() == set()


@pytest.mark.parametrize("value", ["false", "off", "0"])
def test_a_driver_that_asks_for_no_replication_is_served(narrow_proxy: ProxyProcess, value: str) -> None:
    with narrow_proxy.connect(replication=value) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
