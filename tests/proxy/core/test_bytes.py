"""The per-message path byte by byte: what each side sends, however it is cut into chunks, comes out the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.rawclient import bind, describe, execute, parse
from tests.support.transports import TransportBase

from tidegate_proxy.core.borrowing import Borrowing
from tidegate_proxy.core.client import HOLD_LIMIT, ClientConnection
from tidegate_proxy.core.server import ServerConnection
from tidegate_proxy.core.session import Session
from tidegate_proxy.core.statements import intern_statement
from tidegate_proxy.core.statistics import Statistics
from tidegate_proxy.errors import BorrowTimeoutError
from tidegate_proxy.protocol import encode, wire
from tidegate_proxy.protocol.decode import parse_error_fields

IDLE, BUSY = encode.ready_for_query(wire.IDLE), encode.ready_for_query(wire.IN_TRANSACTION)
ROW = encode.message(wire.ROW_DESCRIPTION, b"\0\0") + encode.message(wire.DATA_ROW, b"\0\0")
DONE = encode.message(wire.COMMAND_COMPLETE, b"SELECT 1\0")
PARSED, BOUND = encode.message(wire.PARSE_COMPLETE), encode.message(wire.BIND_COMPLETE)
CLOSED = encode.message(wire.CLOSE_COMPLETE)
COPY_IN = encode.message(wire.COPY_IN_RESPONSE, b"\0\0\0")
ERROR = encode.message(wire.ERROR_RESPONSE, b"SERROR\0VERROR\0C22012\0Mdivision by zero\0\0")


class Transport(TransportBase):
    """Keeps what is written, and whether it would be read from."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.paused = 0
        self.open = True

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        assert self.paused == 0, "paused twice"
        self.paused += 1

    def resume_reading(self) -> None:
        assert self.paused == 1, "resumed twice"
        self.paused -= 1

    def close(self) -> None:
        self.open = False

    abort = close

    def take(self) -> bytes:
        data = bytes(self.written)
        self.written.clear()
        return data


class Owner(Borrowing):
    """A pool with one server connection."""

    def __init__(self) -> None:
        super().__init__()
        self.server = ServerConnection(self, 1, b"key!", 0.0)
        self.to_server = Transport()
        self.server.connection_made(cast(asyncio.Transport, self.to_server))
        self.idle = [self.server]
        self.waiting: list[ClientConnection] = []
        self.events: list[str] = []

    def client(self) -> tuple[ClientConnection, Transport]:
        client = ClientConnection(self, 1, b"key!", Session({}), {}, Statistics())
        transport = Transport()
        client.connection_made(cast(asyncio.Transport, transport))
        return client, transport

    def acquire(self, client: ClientConnection) -> ServerConnection | None:
        if self.idle:
            return self.idle.pop()
        self.waiting.append(client)
        return None

    def give_up(self, client: ClientConnection) -> None:
        self.waiting.remove(client)

    def prefix(self, client: ClientConnection, server: ServerConnection) -> bytes:
        return b""

    def orphaned(self, server: ServerConnection, client: ClientConnection, mid_message: bool) -> None:
        self.events.append("orphaned in mid-message" if mid_message else "orphaned")

    def pinned(self, client: ClientConnection, reason: str) -> None:
        self.events.append(f"pinned: {reason}")

    def unpinned(self, client: ClientConnection) -> None:
        self.events.append("unpinned")

    def sequences_are_read(self, client: ClientConnection) -> None:
        pass

    def defaults_changed(self) -> None:
        pass

    def schema_changed(self) -> None:
        pass

    def set_deadline(self, client: ClientConnection, seconds: float) -> None:
        self.events.append(f"deadline in {seconds:g} s")

    def client_lost(self, client: ClientConnection) -> None:
        self.events.append("client lost")

    async def cancel(self, client: ClientConnection) -> None:
        raise AssertionError

    def put_back(self, server: ServerConnection) -> bool:
        self.events.append("released")
        return not self.waiting and super().put_back(server)

    def server_released(self, server: ServerConnection) -> None:
        self.waiting.pop(0).server_granted(server)

    def server_lost(self, server: ServerConnection) -> None:
        self.events.append("server lost")

    def read_only_seen(self, server: ServerConnection) -> None:
        self.events.append("a write was refused")


Step = tuple[str, bytes]


def play(steps: Iterable[Step]) -> tuple[bytes, bytes, list[str]]:
    """Let the client ("c") and the server ("s") send; returns what each of them got, and what the pool saw."""
    owner = Owner()
    client, to_client = owner.client()
    for side, data in steps:
        (client if side == "c" else owner.server).data_received(data)
    return to_client.take(), owner.to_server.take(), owner.events


FAILED = encode.ready_for_query(wire.IN_FAILED_TRANSACTION)
SET_DONE = encode.command_complete("SET")
NAMED = intern_statement(b"SELECT 1\0\0\0")
RENAMED = parse(NAMED.name, b"SELECT 1")

# What is sent by whom, and what the two get in the end.
SCRIPTS: dict[str, tuple[list[Step], bytes, bytes]] = {
    "a query": (
        [("c", encode.query("SELECT 1")), ("s", ROW + DONE + IDLE)],
        ROW + DONE + IDLE,
        encode.query("SELECT 1"),
    ),
    "a transaction": (
        [
            ("c", encode.query("BEGIN")),
            ("s", DONE + BUSY),
            ("c", encode.query("SELECT 1")),
            ("s", ROW + DONE + BUSY),
            ("c", encode.query("COMMIT")),
            ("s", DONE + IDLE),
        ],
        DONE + BUSY + ROW + DONE + BUSY + DONE + IDLE,
        encode.query("BEGIN") + encode.query("SELECT 1") + encode.query("COMMIT"),
    ),
    "deadlines, which the server does not get": (
        [
            (
                "c",
                encode.query("SET tidegate.deadline_ms = 700") + encode.query("BEGIN /* tidegate.deadline_ms=900 */"),
            ),
            ("s", DONE + BUSY),
            ("c", parse(b"", b"SELECT 1 /* tidegate.deadline_ms=800 */") + encode.sync()),
            ("s", PARSED + BUSY),
        ],
        SET_DONE + IDLE + DONE + BUSY + PARSED + BUSY,
        encode.query("BEGIN") + parse(b"", b"SELECT 1") + encode.sync(),
    ),
    "a pipeline with an error": (
        [
            ("c", (parse(b"", b"SELECT 1") + bind() + execute() + encode.sync()) * 2),
            ("s", PARSED + ERROR + IDLE + PARSED + BOUND + ROW + DONE + IDLE),
        ],
        PARSED + ERROR + IDLE + PARSED + BOUND + ROW + DONE + IDLE,
        (parse(b"", b"SELECT 1") + bind() + execute() + encode.sync()) * 2,
    ),
    "a named statement, known to the server the second time": (
        [
            ("c", parse(b"mine", b"SELECT 1") + describe(b"S", b"mine") + encode.sync()),
            ("s", PARSED + ROW + IDLE),
            ("c", bind(b"", b"mine") + execute() + encode.close_statement(b"mine") + encode.sync()),
            ("s", BOUND + DONE + CLOSED + IDLE),
            ("c", parse(b"mine", b"SELECT 1") + encode.sync()),
            ("s", PARSED + IDLE),
        ],
        PARSED + ROW + IDLE + BOUND + DONE + CLOSED + IDLE + PARSED + IDLE,
        RENAMED
        + describe(b"S", NAMED.name)
        + encode.sync()
        + bind(b"", NAMED.name)
        + execute()
        + encode.close_statement(b"tidegate_none")
        + encode.sync()
        + parse(b"", b"SHOW server_version")
        + encode.sync(),
    ),
    "COPY from the client": (
        [
            ("c", encode.query("COPY t FROM STDIN")),
            ("s", COPY_IN),
            ("c", encode.message(wire.COPY_DATA, b"1\n2\n") + encode.message(wire.COPY_DONE)),
            ("s", DONE + IDLE),
        ],
        COPY_IN + DONE + IDLE,
        encode.query("COPY t FROM STDIN") + encode.message(wire.COPY_DATA, b"1\n2\n") + encode.message(wire.COPY_DONE),
    ),
    "notices and parameters that come unasked": (
        [
            ("c", encode.query("SELECT 1")),
            ("s", encode.parameter_status(b"a", b"b") + ROW + DONE + IDLE),
            ("s", encode.parameter_status(b"c", b"d")),
            ("c", encode.query("SELECT 2")),
            ("s", DONE + IDLE),
        ],
        encode.parameter_status(b"a", b"b") + ROW + DONE + IDLE + DONE + IDLE,
        encode.query("SELECT 1") + encode.query("SELECT 2"),
    ),
    "what needs no server connection": (
        [("c", encode.sync() + encode.flush() + encode.message(wire.COPY_DATA, b"late") + encode.sync())],
        IDLE + IDLE,
        b"",
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_side_gets_what_it_should(name: str) -> None:
    steps, to_client, to_server = SCRIPTS[name]
    assert play(steps)[:2] == (to_client, to_server)


@pytest.mark.parametrize("name", SCRIPTS)
def test_single_bytes_make_no_difference(name: str) -> None:
    steps, to_client, to_server = SCRIPTS[name]
    single = [(side, data[i : i + 1]) for side, data in steps for i in range(len(data))]
    assert play(single)[:2] == (to_client, to_server)


@given(st.sampled_from(sorted(SCRIPTS)), st.lists(st.integers(1, 40), min_size=1))
def test_chunks_of_any_size_make_no_difference(name: str, sizes: list[int]) -> None:
    steps, to_client, to_server = SCRIPTS[name]
    chunks: list[Step] = []
    turn = 0
    for side, data in steps:
        at = 0
        while at < len(data):
            size = sizes[turn % len(sizes)]
            chunks.append((side, data[at : at + size]))
            at += size
            turn += 1
    assert play(chunks)[:2] == (to_client, to_server)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_of_a_client_get_past_the_protocol_as_an_exception(junk: bytes, mid_request: bool) -> None:
    owner = Owner()
    client, _ = owner.client()
    if mid_request:
        client.data_received(parse(b"s", b"SELECT 1"))
    client.data_received(junk)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_of_a_server_get_past_the_protocol_as_an_exception(junk: bytes, mid_request: bool) -> None:
    owner = Owner()
    client, _ = owner.client()
    if mid_request:
        client.data_received(encode.query("SELECT 1"))
    owner.server.data_received(junk)


def test_a_server_connection_is_released_only_when_everything_is_answered() -> None:
    query = encode.query("SELECT 1")
    assert play([("c", query * 2), ("s", DONE + IDLE)])[2] == []
    assert play([("c", query * 2), ("s", (DONE + IDLE) * 2)])[2] == ["released"]
    assert play([("c", query), ("s", DONE + BUSY)])[2] == []
    assert play([("c", query), ("s", DONE + IDLE), ("c", query)])[2] == ["released"]


def test_an_unfinished_message_takes_no_server_connection() -> None:
    owner = Owner()
    client, _ = owner.client()
    client.data_received(encode.query("SELECT 1")[:-1])
    assert owner.idle
    client.data_received(encode.query("SELECT 1")[-1:])
    assert not owner.idle


def test_a_waiting_client_is_read_from_up_to_a_limit() -> None:
    owner = Owner()
    owner.idle.clear()
    client, transport = owner.client()
    client.data_received(encode.query("SELECT 1"))
    assert transport.paused == 0
    client.data_received(b"Q" + bytes(HOLD_LIMIT))
    assert transport.paused == 1


def test_a_failed_wait_answers_one_request_and_leaves_the_rest() -> None:
    owner = Owner()
    owner.idle.clear()
    client, transport = owner.client()
    client.data_received(encode.query("SELECT 1") + encode.query("SELECT 2"))
    owner.waiting.clear()
    client.borrow_failed(BorrowTimeoutError())
    answer = transport.take()
    assert parse_error_fields(answer[5:])["C"] == "53300"
    assert answer.endswith(IDLE)
    assert owner.waiting == [client]
    client.server_granted(owner.server)
    assert owner.to_server.take() == encode.query("SELECT 2")


def test_a_failed_wait_skips_an_extended_request_up_to_its_sync() -> None:
    owner = Owner()
    owner.idle.clear()
    client, transport = owner.client()
    client.data_received(parse(b"s", b"SELECT 1") + bind(b"", b"s"))
    owner.waiting.clear()
    client.borrow_failed(BorrowTimeoutError())
    transport.take()
    owner.idle.append(owner.server)
    client.data_received(execute() + encode.sync() + bind(b"", b"s") + encode.sync())
    assert transport.take() == IDLE
    assert owner.to_server.take() == bind(b"", b"s") + encode.sync()


def test_a_slow_client_slows_its_server_and_only_while_it_holds_it() -> None:
    owner = Owner()
    client, _ = owner.client()
    client.data_received(encode.query("SELECT 1"))
    client.pause_writing()
    assert owner.to_server.paused == 1
    client.resume_writing()
    assert owner.to_server.paused == 0
    client.pause_writing()
    owner.server.data_received(DONE + IDLE)
    assert owner.to_server.paused == 0
    assert owner.idle


def test_a_slow_server_slows_its_client() -> None:
    owner = Owner()
    client, transport = owner.client()
    client.data_received(encode.query("COPY t FROM STDIN"))
    owner.server.pause_writing()
    assert transport.paused == 1
    owner.server.resume_writing()
    assert transport.paused == 0


def test_a_large_message_is_passed_on_as_it_comes() -> None:
    owner = Owner()
    client, to_client = owner.client()
    client.data_received(encode.query("SELECT 1"))
    row = encode.message(wire.DATA_ROW, bytes(1_000_000))
    for at in range(0, len(row), 65_536):
        owner.server.data_received(row[at : at + 65_536])
        assert to_client.take() == row[at : at + 65_536]
    owner.server.data_received(DONE + IDLE)
    assert owner.idle


def test_a_client_that_goes_in_mid_message_leaves_a_connection_that_nobody_may_have() -> None:
    owner = Owner()
    client, _ = owner.client()
    client.data_received(encode.query("x" * 2 * HOLD_LIMIT)[:-10])
    client.connection_lost(None)
    assert owner.events == ["orphaned in mid-message", "client lost"]


def test_a_server_lost_in_a_request_is_answered_for() -> None:
    owner = Owner()
    client, to_client = owner.client()
    client.data_received(encode.query("SELECT 1"))
    owner.server.connection_lost(None)
    answer = to_client.take()
    assert parse_error_fields(answer[5:])["C"] == "08006"
    assert answer.endswith(IDLE)


def test_a_server_lost_between_two_requests_of_a_transaction_fails_the_next_one() -> None:
    owner = Owner()
    client, to_client = owner.client()
    client.data_received(encode.query("BEGIN"))
    owner.server.data_received(DONE + BUSY)
    owner.server.data_received(
        encode.message(wire.ERROR_RESPONSE, b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0")
    )
    owner.server.connection_lost(None)
    assert to_client.take() == DONE + BUSY
    client.data_received(encode.query("SELECT 1"))
    answer = to_client.take()
    assert parse_error_fields(answer[5:])["C"] == "57P01"
    assert answer.endswith(FAILED)
    client.data_received(encode.query("ROLLBACK"))
    assert to_client.take() == encode.command_complete("ROLLBACK") + IDLE
    client.data_received(encode.query("SELECT 1"))


def test_who_hangs_up_while_waiting_is_given_no_server_connection() -> None:
    owner = Owner()
    holder, _ = owner.client()
    late, _ = owner.client()
    holder.data_received(encode.query("SELECT 1"))
    late.data_received(encode.query("DELETE FROM t"))
    assert owner.waiting == [late]
    owner.to_server.take()
    # The loop tells of the end itself only when it has seen what else has come.
    late.eof_received()
    owner.server.data_received(DONE + IDLE)
    late.connection_lost(None)
    assert owner.to_server.take() == b""
    assert owner.idle == [owner.server]
    assert owner.events == ["released", "client lost"]
