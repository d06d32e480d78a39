"""SQL that names a protocol-level statement, and set_config of a parameter whose name is an argument."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from tests.proxy.session_state.test_found_by_mirrors import setting
from tests.support.proxy import ProxyProcess, eventually
from tests.support.rawclient import RawClient, bind, execute, parse

from tidegate_proxy.protocol import encode


def values(client: RawClient, message: bytes) -> list[bytes]:
    client.send(message)
    messages = client.read_until()
    assert "E" not in [kind for kind, _ in messages], messages
    return [body[6:] for kind, body in messages if kind == "D"]


def simple(sql: str) -> bytes:
    return encode.query(sql)


def extended(sql: str) -> bytes:
    return parse(b"", sql.encode()) + bind() + execute() + encode.sync()


@pytest.mark.parametrize("send", [simple, extended])
@pytest.mark.parametrize(
    "sql", ["EXECUTE st", "/* a */ EXECUTE st", "-- a\nEXECUTE ST", 'EXECUTE "st"', "EXPLAIN (COSTS off) EXECUTE st"]
)
def test_execute(narrow_proxy: ProxyProcess, send: Callable[[str], bytes], sql: str) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.send(parse(b"st", b"SELECT 41 + 1") + encode.sync())
        one.read_until()
        two.query("SELECT 1")
        for _ in range(2):
            assert values(one, send(sql)) in ([b"42"], [b"Result"])
        two.send(send(sql))
        assert two.error_until()["C"] == "26000"


def test_one_of_several_statements(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one:
        for name in (b"s", b"t"):
            one.send(parse(name, b"SELECT '%b'" % name) + encode.sync())
            one.read_until()
        assert values(one, simple("SELECT 0; EXECUTE t; SELECT 'EXECUTE s'; EXECUTE s")) == [
            b"0",
            b"t",
            b"EXECUTE s",
            b"s",
        ]
        one.query("PREPARE u AS SELECT 1")
        assert values(one, simple("DEALLOCATE u; DEALLOCATE s; EXECUTE t")) == [b"t"]
        one.send(simple("EXECUTE s"))
        assert one.error_until()["C"] == "26000"


@pytest.mark.parametrize("send", [simple, extended])
def test_deallocate(narrow_proxy: ProxyProcess, send: Callable[[str], bytes]) -> None:
    with RawClient(narrow_proxy.parameters) as one:
        for _ in range(2):
            one.send(parse(b"st", b"SELECT 42") + encode.sync())
            assert one.kinds_until() == "1Z"
            assert values(one, send("DEALLOCATE st")) == []
            one.send(bind(b"", b"st") + encode.sync())
            assert one.error_until()["C"] == "26000"


@pytest.mark.parametrize("prepare", [False, True])
def test_a_parameter_whose_name_is_an_argument_is_carried(narrow_proxy: ProxyProcess, prepare: bool) -> None:
    with narrow_proxy.connect() as one, RawClient(narrow_proxy.parameters) as two:
        for name, value, other in (("work_mem", "1234kB", "4MB"), ("app.Tenant", "seven", "")):
            one.execute("SELECT set_config(%s, %s, false)", [name, value], prepare=prepare)
            assert setting(two, name) == other if other else True
            assert one.execute("SELECT current_setting(%s)", [name]).fetchone() == (value,)
        assert "pinned" not in narrow_proxy.log


@pytest.mark.parametrize("name", ["seed", None])
def test_a_parameter_that_cannot_be_carried_pins(narrow_proxy: ProxyProcess, name: str | None) -> None:
    with narrow_proxy.connect() as one:
        try:
            one.execute("SELECT set_config(%s, '0.5', false)", [name])
        except psycopg.Error:
            assert name is None
        eventually(lambda: "is pinned" in narrow_proxy.log)


def test_an_argument_given_by_execute_pins(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.send(parse(b"st", b"SELECT set_config($1, '1234kB', false)") + encode.sync())
        one.read_until()
        assert values(one, simple("EXECUTE st('work_mem')")) == [b"1234kB"]
        eventually(lambda: "parameter whose name is computed" in narrow_proxy.log)
        one.query("DISCARD ALL")
        assert setting(two, "work_mem") == "4MB"
