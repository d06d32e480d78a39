"""The server vanishes, restarts, refuses or is not there: only what was in flight fails, and clients stay."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from tests.proxy.adversity.helpers import backend_pid, until_running, value
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually
from tests.support.rawclient import RawClient, bind, execute, parse
from tests.support.relay import Relay

from tidegate_load.postgres import EmbeddedPostgres, free_port
from tidegate_proxy.protocol import encode, wire


def kill(database: Database, pid: int) -> None:
    """End a server process, and wait until it is gone."""
    with database.server.connect() as conn:
        conn.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])


def test_killed_while_idle_nobody_notices(narrow_proxy: ProxyProcess, database: Database) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        for _ in range(3):
            pid = backend_pid(client)
            kill(database, pid)
            assert backend_pid(client) != pid


@pytest.mark.parametrize("extended", [False, True])
def test_killed_in_a_query_the_query_fails_in_the_servers_words(
    narrow_proxy: ProxyProcess, database: Database, extended: bool
) -> None:
    sleep = parse(b"", b"SELECT pg_sleep(3600)") + bind() + execute() + encode.sync()
    with RawClient(narrow_proxy.parameters) as client:
        pid = backend_pid(client)
        client.send(sleep if extended else encode.query("SELECT pg_sleep(3600)"))
        until_running(narrow_proxy, "pg_sleep")
        kill(database, pid)
        error = client.error_until()
        assert (error["S"], error["C"]) == ("ERROR", "57P01")
        assert value(client, "SELECT 1") == "1"


def test_killed_with_a_pipeline_in_flight_every_request_is_answered(
    narrow_proxy: ProxyProcess, database: Database
) -> None:
    request = parse(b"", b"SELECT 1") + bind() + execute() + encode.sync()
    sleep = parse(b"", b"SELECT pg_sleep(3600)") + bind() + execute() + encode.sync()
    with RawClient(narrow_proxy.parameters) as client:
        pid = backend_pid(client)
        client.send(request + sleep + request * 3)
        assert client.kinds_until() == "12DCZ"
        until_running(narrow_proxy, "pg_sleep")
        kill(database, pid)
        assert [client.kinds_until()[-2:] for _ in range(4)] == ["EZ"] * 4
        assert value(client, "SELECT 1") == "1"


@pytest.mark.parametrize("next_statement", ["SELECT 1", "COMMIT", "ROLLBACK"])
def test_killed_in_a_transaction_the_next_statement_fails_and_a_new_transaction_works(
    narrow_proxy: ProxyProcess, database: Database, next_statement: str
) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        client.query("CREATE TABLE t (n int)")
        client.query("BEGIN")
        client.query("INSERT INTO t VALUES (1)")
        kill(database, backend_pid(client))
        client.send(encode.query(next_statement))
        assert client.error_until()["C"] == "57P01"
        if next_statement == "SELECT 1":
            # The transaction is over when the client ends it, as after any other error.
            client.send(encode.query("INSERT INTO t VALUES (2)"))
            assert client.error_until()["C"] == "25P02"
            assert client.query("COMMIT") == [("C", b"ROLLBACK\0"), ("Z", b"I")]
        client.query("BEGIN")
        assert value(client, "SELECT count(*) FROM t") == "0"
        client.query("COMMIT")


def test_killed_in_a_drivers_transaction_the_driver_rolls_back_and_goes_on(
    narrow_proxy: ProxyProcess, database: Database
) -> None:
    with narrow_proxy.connect(autocommit=False) as conn:
        row = conn.execute("SELECT pg_backend_pid()").fetchone()
        assert row is not None
        kill(database, row[0])
        with pytest.raises(psycopg.errors.AdminShutdown):
            conn.execute("SELECT 1")
        conn.rollback()
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_killed_with_state_in_the_session_its_client_is_told_and_closed(
    narrow_proxy: ProxyProcess, database: Database
) -> None:
    with RawClient(narrow_proxy.parameters) as client, RawClient(narrow_proxy.parameters) as other:
        client.query("CREATE TEMP TABLE mine (a int)")
        kill(database, backend_pid(client))
        assert client.error_until("E")["C"] == "57P01"
        assert client.is_closed()
        assert value(other, "SELECT 1") == "1"


def test_cut_off_in_the_midst_of_a_row_the_client_is_closed(
    start_proxy: StartProxy, relay_to: Callable[[int], Relay], database: Database
) -> None:
    relay = relay_to(database.server.port)
    proxy = start_proxy(default_pool_size=1, database_settings={"port": relay.port})
    with RawClient(proxy.parameters) as client, RawClient(proxy.parameters) as other:
        client.send(encode.query("SELECT repeat('x', 100000000)"))
        assert client.read()[0] == "T"
        client.read_exactly(1000)
        relay.reset_all()
        assert client.is_closed()
        assert value(other, "SELECT 1") == "1"


@pytest.fixture
def own_server(database: Database) -> Iterator[EmbeddedPostgres]:
    """A server of the test's own with the same user and database, not started yet."""
    server = EmbeddedPostgres("18", settings={"max_connections": "10"})
    server.port = free_port()
    yield server
    server.close()


def start(server: EmbeddedPostgres, database: Database) -> None:
    server.start()
    server.create_user(database.user, database.password)
    server.create_database(database.name, owner=database.user)


def test_down_at_first_and_up_later(start_proxy: StartProxy, own_server: EmbeddedPostgres, database: Database) -> None:
    proxy = start_proxy(
        check_targets=False,
        connection_borrow_timeout=2,
        default_pool_size=2,
        database_settings={"port": own_server.port},
    )
    with pytest.raises(psycopg.OperationalError) as failed:
        proxy.connect()
    assert "connection_borrow_timeout" in str(failed.value)
    assert "Connection refused" in str(failed.value)
    start(own_server, database)
    proxy.reload(connection_borrow_timeout=60)
    with eventually(lambda: connected(proxy), what="a login") as client:
        assert value(client, "SELECT 1") == "1"
        pid = backend_pid(client)
        # A restart between two statements: the client waits for the server, and does not notice.
        own_server.stop()
        client.send(encode.query("SELECT pg_backend_pid()"))
        own_server.start()
        row = next(body for kind, body in client.read_until() if kind == "D")
        assert int(row[6:]) != pid
        proxy.reload(connection_borrow_timeout=1)
        own_server.kill()
        client.send(encode.query("SELECT 1"))
        assert client.error_until()["C"] in ("08006", "53300", "57P01")
        own_server.start()
        eventually(lambda: "D" in [kind for kind, _ in client.query("SELECT 1")], what="an answer")


def connected(proxy: ProxyProcess) -> RawClient | None:
    client = RawClient(proxy.parameters, login=False)
    try:
        client.log_in()
    except AssertionError:
        client.socket.close()
        return None
    return client


def test_clients_wait_while_the_server_is_away_and_all_are_served(
    start_proxy: StartProxy, relay_to: Callable[[int], Relay], database: Database
) -> None:
    relay = relay_to(database.server.port)
    proxy = start_proxy(default_pool_size=3, database_settings={"port": relay.port})
    clients = [RawClient(proxy.parameters) for _ in range(10)]
    relay.stall()
    relay.reset_all()
    # The proxy answers this by itself, and by then it has seen what came before.
    clients[0].send(encode.sync())
    assert clients[0].kinds_until() == "Z"
    for client in clients:
        client.send(encode.query("SELECT 1"))
    relay.resume()
    for client in clients:
        assert client.kinds_until() == "TDCZ"
        client.socket.close()


def test_a_target_that_accepts_and_never_answers(
    start_proxy: StartProxy, relay_to: Callable[[int], Relay], database: Database
) -> None:
    relay = relay_to(database.server.port)
    relay.black_hole()
    proxy = start_proxy(server_connect_timeout=0.5, connection_borrow_timeout=2, database_settings={"port": relay.port})
    with pytest.raises(psycopg.OperationalError) as failed:
        proxy.connect()
    assert "connection_borrow_timeout" in str(failed.value)
    assert "no answer within 0.5 s" in str(failed.value)
    relay.resume()
    with eventually(lambda: connected(proxy), what="a login") as client:
        assert value(client, "SELECT 1") == "1"


def test_too_many_connections_on_the_server_are_tried_again_until_there_is_room(
    start_proxy: StartProxy, database: Database
) -> None:
    with database.server.connect() as admin:
        # The control connection needs one as well.
        admin.execute(f'ALTER ROLE "{database.user}" CONNECTION LIMIT 2')
    parameters: dict[str, Any] = database.parameters | {"autocommit": True}
    with psycopg.connect(**parameters) as direct, psycopg.connect(**parameters):
        # Not before, or its control connection might have taken one of the two places.
        proxy = start_proxy(default_pool_size=1, connection_borrow_timeout=2)
        with pytest.raises(psycopg.OperationalError) as failed:
            proxy.connect()
        assert "connection_borrow_timeout" in str(failed.value)
        assert "too many connections for role" in str(failed.value)
        direct.execute("SELECT 1")
    with eventually(lambda: connected(proxy), what="a login") as client:
        assert value(client, "SELECT 1") == "1"


@pytest.mark.parametrize(
    ("settings", "sqlstate", "words"),
    [
        ({"user": "nobody", "password": "wrong"}, "28P01", 'password authentication failed for user "nobody"'),
        ({"user": "nobody"}, "28000", "none is configured"),
        ({"dbname": "atlantis"}, "3D000", 'database "atlantis" does not exist'),
    ],
)
def test_what_only_the_configuration_can_mend_is_said_at_once(
    start_proxy: StartProxy, settings: dict[str, str], sqlstate: str, words: str
) -> None:
    proxy = start_proxy(database_settings=settings, connection_borrow_timeout=3600)
    with RawClient(proxy.parameters, login=False) as client:
        with pytest.raises(AssertionError) as refused:
            client.log_in()
        assert sqlstate in str(refused.value)
        assert words in str(refused.value)
        assert client.is_closed()
    assert words in proxy.log


class FakeServer:
    """Accepts connections and lets `serve` answer each, until it is closed."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if self._closing:
                    return
                connection.settimeout(10)
                try:
                    self._serve(connection)
                except OSError:
                    continue

    _closing = False

    def close(self) -> None:
        self._closing = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join(20)
        self._listener.close()
        assert not self._thread.is_alive()


@pytest.fixture
def fake_server() -> Iterator[Callable[[Callable[[socket.socket], None]], FakeServer]]:
    servers: list[FakeServer] = []

    def make(serve: Callable[[socket.socket], None]) -> FakeServer:
        servers.append(FakeServer(serve))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


MakeServer = Callable[[Callable[[socket.socket], None]], FakeServer]
HELLO = encode.authentication_ok() + encode.backend_key_data(1, b"abcd") + encode.ready_for_query(wire.IDLE)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "protocol|message"),
        (b"R" + b"\x7f\xff\xff\xff", "invalid message length"),
        (b"R" + bytes(4), "invalid message length"),
        (encode.message(wire.AUTHENTICATION, b"\0\0\0\x0c"), "SCRAM|malformed|not support"),
        (encode.ready_for_query(wire.IDLE), "unexpected message"),
    ],
)
def test_a_server_that_does_not_speak_the_protocol(
    start_proxy: StartProxy, fake_server: MakeServer, answer: bytes, words: str
) -> None:
    def serve(connection: socket.socket) -> None:
        if connection.recv(10_000):
            connection.sendall(answer)

    proxy = start_proxy(connection_borrow_timeout=2, database_settings={"port": fake_server(serve).port})
    with pytest.raises(psycopg.OperationalError, match=words):
        proxy.connect()


def test_a_server_that_answers_what_nobody_asked_loses_its_client(
    start_proxy: StartProxy, relay_to: Callable[[int], Relay], database: Database
) -> None:
    """Nothing of it reaches anybody: the connection is given up."""
    relay = relay_to(database.server.port)
    proxy = start_proxy(default_pool_size=1, database_settings={"port": relay.port})
    proxy.allowed_in_log.append("protocol violation")
    with RawClient(proxy.parameters) as client:
        client.send(encode.query("SELECT pg_sleep(3600)"))
        until_running(proxy, "pg_sleep")
        relay.send_to_clients(b"~\0\0\0\4")
        error = client.error_until()
        assert error["C"] == "08006"
        assert "unexpected message type" in error["M"]


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("sizes", ["one byte", "random"])
def test_messages_may_be_split_anywhere(
    start_proxy: StartProxy, relay_to: Callable[[int], Relay], database: Database, side: str, sizes: str
) -> None:
    chooser = random.Random(1)
    pick = (lambda: 1) if sizes == "one byte" else lambda: int(chooser.paretovariate(0.7)) % 5000 + 1
    relay: Relay
    if side == "server":
        relay = relay_to(database.server.port)
        relay.split(pick)
        proxy = start_proxy(default_pool_size=1, database_settings={"port": relay.port})
        parameters = proxy.parameters
    else:
        proxy = start_proxy(default_pool_size=1)
        relay = relay_to(proxy.port)
        relay.split(pick)
        parameters = proxy.parameters | {"port": relay.port}
    with RawClient(parameters) as one, RawClient(parameters, application_name="other") as other:
        one.query("CREATE TABLE t (n int)")
        for n in range(3):
            one.send(
                parse(b"s%d" % n, b"SELECT $1::int + %d" % n) + bind(b"", b"s%d" % n, b"5") + execute() + encode.sync()
            )
            other.send(encode.query("SELECT 1; SELECT 1/0"))
            assert one.kinds_until() == "12DCZ"
            assert other.kinds_until() == "TDCEZ"
        one.send(encode.query("COPY t FROM STDIN") + encode.message(wire.COPY_DATA, b"1\n" * 300))
        one.send(encode.message(wire.COPY_DONE) + encode.query("SELECT count(*) FROM t"))
        other.send(encode.query("SHOW application_name"))
        assert one.kinds_until() == "GCZ"
        assert ("D", b"\0\1\0\0\0\003300") in one.read_until()
        assert ("D", b"\0\1\0\0\0\5other") in other.read_until()
        one.query("BEGIN")
        assert value(one, "SELECT repeat('x', 1000)") == "x" * 1000
        one.query("SELECT 1/0")
        one.query("ROLLBACK")
        assert value(other, "SELECT 1") == "1"
