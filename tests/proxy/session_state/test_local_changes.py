"""What a transaction sets for itself: the proxy knows of it, and yet asks the server nothing about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.support.postgres import Database
from tests.support.proxy import StartProxy, eventually
from tests.support.rawclient import RawClient, bind, execute, parse
from tests.support.relay import Relay

from tidegate_proxy.core.suspect import Suspicion, examine, is_suspect
from tidegate_proxy.protocol import encode

LOCAL = [
    b"SET LOCAL search_path TO a",
    b"set local\tDateStyle = DMY",
    b"SET LOCAL work_mem TO 1234; SET LOCAL DateStyle TO DMY",
    b"SET LOCAL DateStyle /* = 1, work_mem */ TO DMY",
    b"/* app */ SET LOCAL TIME ZONE 'Asia/Tokyo'",
    b"BEGIN; SET LOCAL DateStyle TO 'SQL, DMY'",
    b"SELECT set_config('app.tenant', $1, true)",
    b"SELECT set_config('app.tenant', '7', true)",
    b"SELECT SET_CONFIG('DateStyle', 'SQL, DMY', 't')",
    b"SELECT set_config('app.a', '1', true), set_config('app.b', $2::text, TRUE)",
    b"SELECT set_config('work_mem', '1MB', true), set_config('app.b', $2::text, TRUE)",
]
MEANS_NOTHING = [
    b"SET LOCAL work_mem TO '1234kB'",
    b"set local\twork_mem = 1234",
    b"SET LOCAL /* DateStyle TO */ Statement_Timeout TO DEFAULT",
    b"BEGIN; SET LOCAL lock_timeout TO 5; SET LOCAL statement_timeout TO 5; SELECT 1",
    b"SELECT set_config('statement_timeout', '7', true), set_config('lock_timeout', $1, 't')",
]


@pytest.mark.parametrize("text", LOCAL)
def test_a_local_change_is_known_and_is_all_that_is_known(text: bytes) -> None:
    assert is_suspect(text)
    assert examine(text, True) == Suspicion(local=True)


@pytest.mark.parametrize("text", MEANS_NOTHING)
def test_a_local_change_that_gives_no_text_another_meaning_is_nothing(text: bytes) -> None:
    assert examine(text, True) is None


@pytest.mark.parametrize(
    "text",
    [b"SET work_mem TO 1234; SET LOCAL work_mem TO 1234", b"SELECT set_config('work_mem', '1234', false)"],
)
def test_a_lasting_change_is_still_asked_about(text: bytes) -> None:
    suspicion = examine(text, True)
    assert suspicion is not None
    assert suspicion.names == {"work_mem"}


@pytest.mark.parametrize(
    "text",
    [
        b"SET TRANSACTION READ ONLY",
        b"SET CONSTRAINTS ALL DEFERRED",
        b"SELECT 'SET LOCAL a TO 1'",
        b"UPDATE t SET local = 1",
    ],
)
def test_what_sets_no_parameter_is_no_local_change(text: bytes) -> None:
    assert not is_suspect(text) or examine(text, True) is None


RelayTo = Callable[[int], Relay]


@pytest.fixture
def counted(start_proxy: StartProxy, relay_to: RelayTo, database: Database) -> Iterator[tuple[Relay, RawClient]]:
    """A client whose proxy has its one server connection through a relay that counts."""
    relay = relay_to(database.server.port)
    # The control connection asks once, and its bytes are none of those that are counted.
    proxy = start_proxy(default_pool_size=1, target_check_interval=3600, database_settings={"port": relay.port})
    with RawClient(proxy.parameters) as client:
        client.query("SELECT 1")
        eventually(lambda: f"target 127.0.0.1:{relay.port}: AVAILABLE" in proxy.log, what="the control connection")
        yield relay, client


def sent_to_server(relay: Relay, client: RawClient, requests: list[bytes]) -> int:
    """Bytes that reach the server while the client sends these, one after the other's answer."""
    before = relay.bytes_to_server
    for data in requests:
        client.send(data)
        client.read_until()
    return relay.bytes_to_server - before


SIMPLE = [
    [b"BEGIN", b"SET LOCAL work_mem TO '1234kB'", b"SELECT 1", b"COMMIT"],
    [b"BEGIN", b"SELECT set_config('app.tenant', '7', true)", b"ROLLBACK"],
    [b"SET LOCAL work_mem TO '1234kB'"],
    [b"BEGIN; SET LOCAL work_mem TO '1234kB'; COMMIT"],
    [b"BEGIN", b"SET LOCAL work_mem TO 'nonsense'", b"ROLLBACK"],
]


@pytest.mark.parametrize("texts", SIMPLE)
def test_the_server_is_sent_what_the_client_sends_and_nothing_else(
    counted: tuple[Relay, RawClient], texts: list[bytes]
) -> None:
    # The statement after the transaction shows that no question went before it.
    requests = [encode.message(ord("Q"), text + b"\0") for text in [*texts, b"SELECT 2"]]
    assert sent_to_server(*counted, requests) == sum(map(len, requests))


def test_nor_in_the_extended_protocol(counted: tuple[Relay, RawClient]) -> None:
    def request(text: bytes, *values: bytes) -> bytes:
        return parse(b"", text) + bind(b"", b"", *values) + execute() + encode.sync()

    requests = [
        request(b"BEGIN"),
        request(b"SELECT set_config('app.tenant', $1, true)", b"7"),
        request(b"COMMIT"),
        request(b"SELECT 2"),
    ]
    assert sent_to_server(*counted, requests) == sum(map(len, requests))


def test_a_lasting_set_is_asked_about_as_can_be_counted(counted: tuple[Relay, RawClient]) -> None:
    requests = [
        encode.query("BEGIN"),
        encode.query("SET work_mem TO 1234"),
        encode.query("COMMIT"),
        encode.query("SELECT 2"),
    ]
    assert sent_to_server(*counted, requests) > sum(map(len, requests))
