"""Simple queries behind extended-protocol messages without a Sync: if one of those fails, PostgreSQL passes over all
that follows, up to a Sync, and answers none of it."""

from __future__ import annotations

import itertools

import pytest
from tests.support.proxy import ProxyProcess, StartProxy
from tests.support.rawclient import RawClient, bind, execute, parse

from tidegate_proxy.protocol import encode


def extended(sql: bytes) -> bytes:
    return parse(b"", sql) + bind() + execute()


def simple(sql: str) -> bytes:
    return encode.query(sql)


# Each part is sent in one piece.
SCRIPTS = {
    "all is well": [simple("BEGIN") + extended(b"SELECT 1") + simple("SELECT 2") + encode.sync() + simple("COMMIT")],
    "a transaction is open": [
        simple("BEGIN") + extended(b"SELECT 1") + simple("SELECT 2") + simple("COMMIT") + simple("SELECT 3"),
    ],
    "the first part fails": [extended(b"SELECT 1/0") + simple("SELECT 2") + encode.sync() + simple("SELECT 3")],
    "the first part fails in a transaction": [
        simple("BEGIN"),
        extended(b"SELECT 1/0") + simple("SELECT 2") + encode.sync() + simple("ROLLBACK") + simple("SELECT 3"),
    ],
    "the query fails": [extended(b"SELECT 1") + simple("SELECT 1/0") + encode.sync() + simple("SELECT 3")],
    "the query fails in a transaction": [
        simple("BEGIN"),
        extended(b"SELECT 1") + simple("SELECT 1/0") + simple("ROLLBACK") + simple("SELECT 3"),
    ],
    "many queries are passed over": [
        extended(b"SELECT 1/0") + simple("SELECT 2") + simple("BEGIN") + simple("SELECT 3") + extended(b"SELECT 4"),
        simple("SELECT 5") + encode.sync() + simple("SELECT 6"),
    ],
    "the Sync comes much later": [
        extended(b"SELECT 1/0") + simple("SELECT 2"),
        simple("SELECT 3"),
        encode.sync(),
        simple("SELECT 4"),
    ],
    "a name is parsed and passed over": [
        extended(b"SELECT 1/0") + simple("SELECT 2") + parse(b"s", b"SELECT 3") + encode.sync(),
        bind(b"", b"s") + encode.sync() + parse(b"s", b"SELECT 4") + bind(b"", b"s") + execute() + encode.sync(),
    ],
    "the session changes": [
        extended(b"SELECT 1") + simple("SET work_mem TO '1MB'") + simple("RESET work_mem") + simple("SHOW work_mem"),
        simple("RESET ALL") + extended(b"SELECT 1") + simple("BEGIN") + simple("SET work_mem TO '3MB'") + encode.sync(),
        simple("COMMIT") + simple("SHOW work_mem"),
    ],
    "what changes the session is passed over": [
        extended(b"SELECT 1/0") + simple("SET work_mem TO '1MB'") + encode.sync() + simple("SHOW work_mem"),
    ],
}


@pytest.mark.parametrize("split", [False, True], ids=["whole", "in pieces"])
@pytest.mark.parametrize("session_check", ["suspect", "always"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_answers_are_those_of_postgresql(start_proxy: StartProxy, name: str, session_check: str, split: bool) -> None:
    proxy = start_proxy(default_pool_size=1, session_check=session_check)
    script = SCRIPTS[name]
    with (
        RawClient(proxy.database.parameters) as direct,
        RawClient(proxy.parameters) as one,
        RawClient(proxy.parameters) as two,
    ):
        two.query("SET work_mem TO '7MB'")
        for client in (direct, one):
            for part in script:
                for piece in [bytes([byte]) for byte in part] if split else [part]:
                    client.send(piece)
            client.send(simple("SELECT 'the end'"))
        expected, got = (list(answers(client)) for client in (direct, one))
        assert got == expected
        assert [body[6:] for kind, body in two.query("SHOW work_mem") if kind == "D"] == [b"7MB"]


@pytest.mark.parametrize("vanishes", [False, True])
def test_postgresql_18_stays_usable_for_others(narrow_proxy: ProxyProcess, vanishes: bool) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.send(extended(b"SELECT 1") + simple("SELECT 2") + encode.sync())
        if vanishes:
            one.socket.close()
        else:
            assert [one.kinds_until(), one.kinds_until()] == ["12DCTDCZ", "Z"]
        for _ in range(2):
            assert [kind for kind, _ in two.query("SELECT 4")] == ["T", "D", "C", "Z"]
    with RawClient(narrow_proxy.parameters) as one:
        one.query("LISTEN pinned")
        one.send(extended(b"SELECT 1") + simple("SELECT 2"))
        one.read_until()
        one.send(encode.sync() + simple("SELECT 4"))
        assert [one.kinds_until(), one.kinds_until()] == ["Z", "TDCZ"]


def answers(client: RawClient) -> itertools.chain[tuple[str, bytes]]:
    messages = []
    while (b"the end" not in (message := client.read())[1]) or message[0] != "D":
        messages.append(message)
    return itertools.chain(messages, client.read_until())
