"""Whatever a client sends: a clean protocol error or a close, and nobody else notices.

A healthy client shares the only server connection with each bad one.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from tests.proxy.adversity.helpers import assert_pristine, cpu_time, value
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually, proxy_config
from tests.support.rawclient import RawClient, bind, describe, execute, parse

from tidegate_load.postgres import EmbeddedPostgres
from tidegate_proxy.protocol import encode, wire
from tidegate_proxy.protocol.decode import parse_error_fields

MEGABYTE = 1 << 20


def startup(*parameters: bytes, version: int = wire.PROTOCOL_3_0) -> bytes:
    body = struct.pack("!i", version) + b"".join(text + b"\0" for text in parameters) + b"\0"
    return struct.pack("!i", len(body) + 4) + body


@pytest.fixture(scope="module")
def process(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """One proxy for all, so that whatever goes wrong for one bad client has time to show."""
    database = Database(postgres, "bad_input", "bad_input", "s3cret-bad-input")
    postgres.create_user(database.user, database.password)
    postgres.create_database(database.name, owner=database.user)
    proxy = ProxyProcess(tmp_path_factory.mktemp("proxy"), database, proxy_config(database, {"default_pool_size": 1}))
    try:
        proxy.wait_until_listening()
        yield proxy
    finally:
        proxy.close()
        # A worker may come to this module more than once.
        with postgres.connect() as conn:
            conn.execute(f"DROP DATABASE {database.name} WITH (FORCE)")
            conn.execute(f"DROP ROLE {database.user}")


@pytest.fixture(scope="module")
def impatient_process(process: ProxyProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """Another one, which ends whoever is silent: on a busy machine, whoever is slow as well."""
    settings = {"default_pool_size": 1, "idle_transaction_timeout": 1, "client_login_timeout": 5}
    config = proxy_config(process.database, settings)
    proxy = ProxyProcess(tmp_path_factory.mktemp("impatient"), process.database, config)
    try:
        proxy.wait_until_listening()
        yield proxy
    finally:
        proxy.close()


@pytest.fixture
def shared(process: ProxyProcess) -> Iterator[ProxyProcess]:
    """A proxy with one server connection, on which a healthy client works before, between and after."""
    yield from with_a_healthy_client(process)


@pytest.fixture
def impatient(impatient_process: ProxyProcess) -> Iterator[ProxyProcess]:
    """The same, with short timeouts."""
    yield from with_a_healthy_client(impatient_process)


def with_a_healthy_client(process: ProxyProcess) -> Iterator[ProxyProcess]:
    with RawClient(process.parameters) as healthy:
        value(healthy, "SELECT 1")
        before = process.resident_memory()
        yield process
        assert_pristine(healthy)
        assert_idle(process, healthy)
        assert process.resident_memory() - before < 16 * MEGABYTE


def assert_idle(proxy: ProxyProcess, healthy: RawClient) -> None:
    """While a query sleeps, the proxy does: a busy loop would take all of that time. What was sent before may still
    have to be seen to."""

    def idle() -> bool:
        spent = cpu_time(proxy)
        value(healthy, "SELECT pg_sleep(0.1)")
        return cpu_time(proxy) - spent < 0.05

    eventually(idle, timeout=10, what="an end of the work")


def raw(proxy: ProxyProcess) -> RawClient:
    return RawClient(proxy.parameters, login=False)


FIRST_PACKETS = {
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "garbage": bytes(range(128, 228)),
    "a length of 2^31": struct.pack("!I", 1 << 31) + b"\0\3\0\0",
    "a length of 2^31 - 1": struct.pack("!I", (1 << 31) - 1) + b"\0\3\0\0",
    "a negative length": struct.pack("!i", -1) + b"\0\3\0\0",
    "a length of 0": bytes(8),
    "a length of 3": struct.pack("!i", 3) + b"\0\3\0\0",
    "a length of 7": struct.pack("!i", 7) + b"\0\3\0",
    "more than a first packet may have": struct.pack("!i", 10_005) + bytes(10_001),
    "no user": startup(b"database", b"x"),
    "no terminator": struct.pack("!ii", 16, wire.PROTOCOL_3_0) + b"user\0bad",
    "a name without a value": startup(b"user", b"x", b"database"),
    "protocol 2": startup(b"user", b"x", version=2 << 16),
    "protocol 4": startup(b"user", b"x", version=4 << 16),
    "a parameter that is not UTF-8": startup(b"user", b"\xff\xfe"),
    "options with an empty name": startup(b"user", b"x", b"options", b"-c =1"),
    "options with a flag of the server's": startup(b"user", b"x", b"options", b"-D /tmp"),
    "options without a value": startup(b"user", b"x", b"options", b"-c work_mem"),
    "a cancel request that is too short": struct.pack("!iii", 12, wire.CANCEL_REQUEST, 1),
    "a cancel request that is too long": struct.pack("!iii", 412, wire.CANCEL_REQUEST, 1) + bytes(400),
    "TLS requests for ever": (encode.ssl_request() + b"") * 5,
    "an SSLRequest that is too long": struct.pack("!ii", 12, wire.SSL_REQUEST) + bytes(4),
}


@pytest.mark.parametrize("name", FIRST_PACKETS)
def test_a_bad_first_packet_gets_an_error_and_the_end(shared: ProxyProcess, name: str) -> None:
    with raw(shared) as client:
        client.send(FIRST_PACKETS[name])
        answer = client_answer(client).lstrip(b"N")
        assert answer[:1] == b"E"
        fields = parse_error_fields(answer[5:])
        assert fields["S"] == "FATAL"
        assert fields["C"] in ("08P01", "0A000", "28000", "22021", "42601", "42704")


def client_answer(client: RawClient) -> bytes:
    """Everything up to the end of the connection."""
    answer = b""
    while True:
        try:
            data = client.socket.recv(1 << 16)
        except ConnectionResetError:
            return answer
        if not data:
            return answer
        answer += data


def test_a_huge_user_name_fails_like_any_other_unknown_user(shared: ProxyProcess) -> None:
    with raw(shared) as client:
        client.send(startup(b"user", b"x" * 9900, b"database", b"y"))
        kind, _ = client.read()
        assert kind == "R"
    for length in (64, 9900):
        with raw(shared) as client:
            client.parameters = shared.parameters | {"user": "x" * length}
            with pytest.raises(AssertionError, match="28P01"):
                client.log_in()


@pytest.mark.parametrize("second", [startup(b"user", b"x"), startup(b"user", b"x" * 300), encode.ssl_request()])
def test_a_second_startup_message_in_place_of_the_password_is_answered_at_once(
    shared: ProxyProcess, second: bytes
) -> None:
    with raw(shared) as client:
        client.send(startup(b"user", shared.database.user.encode(), b"database", shared.database.name.encode()))
        assert client.read()[0] == "R"
        client.send(second)
        assert client.error_until("E") == {
            "S": "FATAL",
            "V": "FATAL",
            "C": "08P01",
            "M": "invalid message type 0",
        }
        assert client.is_closed()


AUTHENTICATION = {
    "another message": encode.query("SELECT 1"),
    "a length of 2^31": b"p" + struct.pack("!I", 1 << 31),
    "a length of 0": b"p" + bytes(4),
    "a length of 3": b"p" + struct.pack("!i", 3),
    "a message that is too long": b"p" + struct.pack("!i", 100_000),
    "an unknown mechanism": encode.sasl_initial_response("NONE", b"n,,n=,r=abc"),
    "no mechanism": encode.message(wire.PASSWORD, b""),
    "SCRAM in bad form": encode.sasl_initial_response("SCRAM-SHA-256", b"hello"),
    "SCRAM that is not UTF-8": encode.sasl_initial_response("SCRAM-SHA-256", b"n,,n=\xff,r=\xfe"),
    "a cleartext password": encode.password_message(b"secret"),
}


@pytest.mark.parametrize("name", AUTHENTICATION)
def test_a_bad_message_during_authentication_gets_an_error_and_the_end(shared: ProxyProcess, name: str) -> None:
    with raw(shared) as client:
        client.send(startup(b"user", shared.database.user.encode(), b"database", shared.database.name.encode()))
        assert client.read()[0] == "R"
        client.send(AUTHENTICATION[name])
        assert client.error_until("E")["C"] == "08P01"
        assert client.is_closed()


AFTER_LOGIN = {
    "a second StartupMessage": startup(b"user", b"x"),
    "an unknown type": b"~" + struct.pack("!i", 4),
    "a type that only servers send": encode.ready_for_query(wire.IDLE),
    "a password": encode.password_message(b"secret"),
    "type 0": bytes(5),
    "type 255": b"\xff" * 50,
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a length of 2^31": b"Q" + struct.pack("!I", 1 << 31),
    "a length of 2^32 - 1": b"Q" + b"\xff" * 4,
    "a length of 2^30": b"Q" + struct.pack("!I", 1 << 30),
    "a length of 0": b"Q" + bytes(4) + b"SELECT 1\0",
    "a length of 3": b"S" + struct.pack("!i", 3),
    "a Sync of 20 KB": b"S" + struct.pack("!i", 20_000) + bytes(19_996),
    "an Execute of 20 KB": b"E" + struct.pack("!i", 20_000) + bytes(19_996),
    "a Parse without a zero byte": encode.message(wire.PARSE, b"name"),
    "a Parse without a zero byte after its statement": encode.message(wire.PARSE, b"name\0SELECT 1"),
    "a Bind without a zero byte": encode.message(wire.BIND, b"portal"),
    "a Bind without a zero byte after its statement": encode.message(wire.BIND, b"portal\0statement"),
    "a Describe without a zero byte": encode.message(wire.DESCRIBE, b"Sname"),
    "a Close without a zero byte": encode.message(wire.CLOSE, b"Sname"),
    "an empty Parse": encode.message(wire.PARSE),
    "an empty Bind": encode.message(wire.BIND),
    "an empty Describe": encode.message(wire.DESCRIBE),
    "an empty Close": encode.message(wire.CLOSE),
}


def test_a_flush_with_a_body_gets_an_error_and_the_end(shared: ProxyProcess) -> None:
    with RawClient(shared.parameters) as client:
        client.query("BEGIN")
        client.send(encode.message(wire.FLUSH, b"body"))
        assert client.error_until("E")["C"] == "08P01"


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("name", AFTER_LOGIN)
def test_a_bad_message_after_login_gets_an_error_and_the_end(shared: ProxyProcess, name: str, held: bool) -> None:
    with RawClient(shared.parameters) as client:
        if held:
            client.query("BEGIN")
        client.send(AFTER_LOGIN[name])
        fields = client.error_until("E")
        assert (fields["S"], fields["C"]) == ("FATAL", "08P01")
        assert client.is_closed()


REFUSED_BY_POSTGRESQL = {
    "a Query without a zero byte": encode.message(wire.QUERY, b"SELECT 1"),
    "an empty Query": encode.message(wire.QUERY),
    "a Query with a zero byte in the midst": encode.message(wire.QUERY, b"SELECT 1\0SELECT 2\0"),
    "a Query that is not UTF-8": encode.message(wire.QUERY, b"SELECT '\xff\xfe'\0"),
    "a Parse without a count of parameters": encode.message(wire.PARSE, b"\0SELECT 1\0") + encode.sync(),
    "a Parse with a count of 65535": encode.message(wire.PARSE, b"\0SELECT 1\0\xff\xff") + encode.sync(),
    "a Bind with absurd counts": parse(b"", b"SELECT 1")
    + encode.message(wire.BIND, b"\0\0" + b"\x7f\xff" * 3)
    + encode.sync(),
    "a Bind with a parameter of 2 GB": parse(b"", b"SELECT $1")
    + encode.message(wire.BIND, b"\0\0\0\0\0\1\x7f\xff\xff\xff" + b"\0\0")
    + encode.sync(),
    "a Bind with a parameter of -2 bytes": parse(b"", b"SELECT $1")
    + encode.message(wire.BIND, b"\0\0\0\0\0\1\xff\xff\xff\xfe" + b"\0\0")
    + encode.sync(),
    "a Describe of neither statement nor portal": describe(b"X", b"") + encode.sync(),
    "a Close of neither statement nor portal": encode.message(wire.CLOSE, b"X\0") + encode.sync(),
    "an Execute that is too short": encode.message(wire.EXECUTE, b"\0\0") + encode.sync(),
    "a Sync with a body": encode.message(wire.SYNC, b"body"),
    "a function call without a body": encode.message(wire.FUNCTION_CALL),
    "a function call with absurd counts": encode.message(wire.FUNCTION_CALL, b"\0\0\0\1" + b"\xff" * 8),
}


@pytest.mark.parametrize("name", REFUSED_BY_POSTGRESQL)
def test_what_postgresql_refuses_it_refuses_itself_and_the_client_goes_on(shared: ProxyProcess, name: str) -> None:
    with RawClient(shared.parameters) as client:
        for _ in range(2):
            client.send(REFUSED_BY_POSTGRESQL[name])
            messages = client.read_until()
            if name != "a Sync with a body":  # no server is asked outside of a transaction
                assert "E" in [kind for kind, _ in messages]
            assert value(client, "SELECT 1") == "1"
    with RawClient(shared.parameters) as client:
        client.query("BEGIN")
        client.send(REFUSED_BY_POSTGRESQL[name])
        client.read_until()


def silent_at_once(client: RawClient) -> None:
    pass


def half_a_header(client: RawClient) -> None:
    client.send(b"Q\0")


def half_a_short_message(client: RawClient) -> None:
    client.send(encode.query("SELECT 12345")[:-5])


def half_a_long_message(client: RawClient) -> None:
    client.send(encode.query("SELECT '" + "x" * 200_000 + "'")[:100_000])


def no_sync(client: RawClient) -> None:
    client.send(parse(b"", b"SELECT 1"))


def no_sync_after_execute(client: RawClient) -> None:
    client.send(parse(b"", b"SELECT 1") + bind() + execute() + encode.flush())


def a_query_that_is_skipped(client: RawClient) -> None:
    client.send(parse(b"", b"nonsense") + encode.query("SELECT 1"))
    client.read_until("E")


def half_a_copy(client: RawClient) -> None:
    client.send(encode.query("CREATE TEMP TABLE t (n int); COPY t FROM STDIN"))
    client.read_until("G")
    client.send(encode.message(wire.COPY_DATA, b"1\n"))


def an_open_transaction(client: RawClient) -> None:
    client.query("BEGIN")


@pytest.mark.parametrize(
    "stop",
    [half_a_long_message, no_sync, no_sync_after_execute, half_a_copy, an_open_transaction],
)
def test_silence_that_holds_a_server_connection_ends_with_idle_transaction_timeout(
    impatient: ProxyProcess, stop: Callable[[RawClient], None]
) -> None:
    with RawClient(impatient.parameters) as client, RawClient(impatient.parameters) as waiting:
        stop(client)
        waiting.send(encode.query("SELECT 1"))
        assert client.error_until("E")["C"] == "25P03"
        assert client.is_closed()
        assert waiting.kinds_until() == "TDCZ"


@pytest.mark.parametrize("stop", [silent_at_once, half_a_header, half_a_short_message, a_query_that_is_skipped])
def test_silence_that_holds_nothing_is_allowed(shared: ProxyProcess, stop: Callable[[RawClient], None]) -> None:
    with RawClient(shared.parameters) as client, RawClient(shared.parameters) as other:
        stop(client)
        for _ in range(20):
            assert value(other, "SELECT 1") == "1"
        assert_idle(shared, other)
        client.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.socket.recv(1)


def test_silence_before_the_login_ends_with_client_login_timeout(impatient: ProxyProcess) -> None:
    packet = encode.startup_message({"user": "x"})
    with RawClient(impatient.parameters) as other:
        clients = [raw(impatient) for _ in range(4)]
        for client, beginning in zip(clients, (b"", b"\0", packet[:-3], packet), strict=True):
            client.send(beginning)
        assert_idle(impatient, other)
        for client in clients:
            client_answer(client)
            client.socket.close()


def test_a_connection_that_says_nothing_and_goes_is_no_fault(shared: ProxyProcess) -> None:
    for _ in range(50):
        socket.create_connection(("127.0.0.1", shared.port)).close()


STAGES = ["first packet", "authentication", "after login", "in a transaction", "in a copy"]


def reach(stage: str, proxy: ProxyProcess) -> RawClient:
    client = RawClient(proxy.parameters, login=STAGES.index(stage) >= 2)
    if stage == "authentication":
        client.send(startup(b"user", proxy.database.user.encode()))
        client.read()
    elif stage == "in a transaction":
        client.query("BEGIN")
    elif stage == "in a copy":
        client.send(encode.query("CREATE TEMP TABLE t (n int); COPY t FROM STDIN"))
        client.read_until("G")
    return client


KINDS = b"BCDEFHPQSXdcf"


def random_bytes(chooser: random.Random) -> bytes:
    """Bytes of any kind, or messages whose frames are right and whose contents are not."""
    if chooser.random() < 0.3:
        return chooser.randbytes(chooser.randrange(1, 300))
    messages = b""
    for _ in range(chooser.randrange(1, 12)):
        kind = chooser.choice(KINDS)
        words = [b"\0", b"S", b"P", b"\0\0", b"SELECT 1\0", b"\0\1", b"name\0", b"\xff\xff", b"COPY t FROM STDIN\0"]
        body = b"".join(chooser.choice(words) for _ in range(chooser.randrange(0, 8)))
        messages += encode.message(kind, body)
    return messages


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("seed", range(2))
def test_random_bytes_at_every_stage(shared: ProxyProcess, stage: str, seed: int) -> None:
    chooser = random.Random(f"{stage} {seed}")
    for _ in range(40):
        client = reach(stage, shared)
        client.send(random_bytes(chooser))
        client.socket.shutdown(socket.SHUT_WR)
        client_answer(client)
        client.socket.close()
