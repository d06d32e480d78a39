"""OpenTelemetry's trace context in SQL comments reaches the server as it was sent."""

from __future__ import annotations

import pytest
from tests.support.proxy import ProxyProcess
from tests.support.rawclient import RawClient, bind, execute, parse

from tidegate_proxy.protocol import encode

CONTEXT = "/*traceparent='00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01',tracestate='rojo%3D1'*/"
SEEN = f"SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid() {CONTEXT}"


def _rows(messages: list[tuple[str, bytes]]) -> list[bytes]:
    return [body[6:] for kind, body in messages if kind == "D"]


def test_in_simple_queries(proxy: ProxyProcess) -> None:
    with RawClient(proxy.parameters) as client:
        assert _rows(client.query(SEEN)) == [SEEN.encode()]
        assert _rows(client.query(f"SET work_mem = '1MB' {CONTEXT}; {SEEN}"))[0].endswith(CONTEXT.encode())


@pytest.mark.parametrize("name", [b"", b"named"])
def test_in_extended_ones_also_in_later_transactions(proxy: ProxyProcess, name: bytes) -> None:
    with RawClient(proxy.parameters) as client:
        client.send(parse(name, SEEN.encode()) + bind(statement=name) + execute() + encode.sync())
        assert _rows(client.read_until()) == [SEEN.encode()]
        client.send(bind(statement=name) + execute() + encode.sync())
        assert _rows(client.read_until()) == [SEEN.encode()]
