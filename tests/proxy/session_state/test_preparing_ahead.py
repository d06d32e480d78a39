"""A client that prepares now and executes later, as asyncpg does, keeps no server connection in between."""

from __future__ import annotations

import pytest
from tests.support.proxy import ProxyProcess, eventually
from tests.support.rawclient import RawClient, bind, describe, execute, parse

from tidegate_proxy.protocol import encode, wire

FLUSH = encode.message(wire.FLUSH, b"")


def prepare(client: RawClient, name: bytes, sql: bytes) -> None:
    """Parse and Describe without a Sync."""
    client.send(parse(name, sql) + describe(b"S", name) + FLUSH)
    assert client.kinds_until("T") == "1tT"


@pytest.mark.parametrize("name", [b"", b"mine"])
def test_others_are_served_between_preparing_and_executing(narrow_proxy: ProxyProcess, name: bytes) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        for turn in (b"SELECT 1", b"SELECT 2"):
            prepare(one, name, turn)
            prepare(two, name, b"SELECT 7")
            for client, value in ((one, turn[-1:]), (two, b"7"), (one, turn[-1:])):
                client.send(bind(b"", name) + execute() + encode.sync())
                assert ("D", b"\0\x01\0\0\0\x01" + value) in client.read_until()
            for client in (one, two):
                client.send(encode.close_statement(name) + encode.sync())
                assert client.kinds_until() == "3Z"


def test_a_sync_alone_ends_what_was_prepared(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        prepare(one, b"s", b"SELECT 1")
        prepare(two, b"s", b"SELECT 2")
        for client in (one, two):
            client.send(encode.sync())
            assert client.read() == ("Z", b"I")


def test_what_follows_an_error_is_skipped_up_to_the_sync(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("CREATE TABLE t (a int)")
        rest = parse(b"", b"INSERT INTO t VALUES (1)") + bind() + execute()
        one.send(parse(b"", b"SELEC") + describe(b"S", b"") + FLUSH + rest)
        assert one.error_until("E")["C"] == "42601"
        assert ("D", b"\0\x01\0\0\0\x010") in two.query("SELECT count(*) FROM t")
        one.send(rest + encode.sync() + rest + encode.sync())
        assert one.kinds_until() == "Z"
        assert one.kinds_until() == "12CZ"
        assert ("D", b"\0\x01\0\0\0\x011") in two.query("SELECT count(*) FROM t")


def test_a_name_that_is_taken_is_an_error_as_ever(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        prepare(one, b"s", b"SELECT 1")
        one.send(parse(b"s", b"SELECT 2") + FLUSH + bind(b"", b"s") + execute() + encode.sync())
        assert one.error_until()["C"] == "42P05"
        one.send(bind(b"", b"s") + execute() + encode.sync())
        assert ("D", b"\0\x01\0\0\0\x011") in one.read_until()
        assert ("D", b"\0\x01\0\0\0\x018") in two.query("SELECT 8")


def test_everything_in_one_go(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one:
        once = (
            parse(b"", b"SELECT 1") + describe(b"S", b"") + FLUSH + bind() + FLUSH + execute() + FLUSH + encode.sync()
        )
        one.send(once * 3 + encode.query("SELECT 2") + once)
        assert [one.kinds_until() for _ in range(5)] == ["1tT2DCZ", "1tT2DCZ", "1tT2DCZ", "TDCZ", "1tT2DCZ"]


def test_a_transaction_keeps_its_server_connection(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        for begin in (encode.query("BEGIN"), parse(b"", b"BEGIN") + bind() + execute()):
            one.send(begin + parse(b"", b"CREATE TABLE t ()") + bind() + execute() + encode.sync())
            one.send(parse(b"", b"SELECT 1") + FLUSH + encode.sync() + encode.query("ROLLBACK"))
            while one.read_until()[-1] != ("Z", b"I"):
                pass
            assert "E" in [kind for kind, _ in two.query("SELECT * FROM t")]


def test_a_bound_portal_survives_a_flush(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one:
        one.send(parse(b"", b"SELECT generate_series(1, 3)") + bind() + FLUSH)
        assert one.kinds_until("2") == "12"
        one.send(execute(rows=2) + FLUSH)
        assert one.kinds_until("s") == "DDs"
        one.send(execute() + encode.sync())
        assert one.kinds_until() == "DCZ"


def test_parameters_are_applied_before_preparing(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("CREATE SCHEMA a; CREATE TABLE a.t AS SELECT 5 AS x; SET search_path TO a")
        for _ in range(2):
            two.query("SELECT 1")
            prepare(one, b"", b"SELECT x FROM t")
            two.query("SELECT 1")
            one.send(bind() + execute() + encode.sync())
            assert ("D", b"\0\x01\0\0\0\x015") in one.read_until()
        assert "pinned" not in narrow_proxy.log


@pytest.mark.parametrize("last", [FLUSH, FLUSH + encode.terminate()])
def test_a_client_that_vanishes_after_preparing(narrow_proxy: ProxyProcess, last: bytes) -> None:
    for sql in (b"SELECT 1", b"SELEC"):
        with RawClient(narrow_proxy.parameters) as one:
            one.send(parse(b"s", sql) + last)
        with RawClient(narrow_proxy.parameters) as two:
            assert ("D", b"\0\x01\0\0\0\x018") in two.query("SELECT 8")
    eventually(lambda: len(narrow_proxy.server_pids()) <= 1)
