"""TLS as a stream of records: cut anywhere, mixed between clients, broken, ended; nobody else notices."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Self

import pytest
from tests.proxy.lifecycle.conftest import Authority
from tests.proxy.lifecycle.tls_relay import TLSRelay
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually
from tests.support.rawclient import RawClient
from tests.support.relay import Relay

from tidegate_proxy.protocol import encode


class RecordClient(RawClient):
    """A client that decides itself when which bytes of its TLS records go out."""

    def __init__(
        self,
        proxy: ProxyProcess,
        *,
        direct: bool = False,
        version: ssl.TLSVersion | None = None,
        keys: Path | None = None,
    ) -> None:
        super().__init__(proxy.parameters, login=False)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["postgresql"])
        if version is not None:
            context.maximum_version = version
        if keys is not None:
            context.keylog_filename = str(keys)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        self.plain = b""
        if not direct:
            self.socket.sendall(encode.ssl_request())
            assert self.socket.recv(1) == b"S"

    def __enter__(self) -> Self:
        return self

    def handshake(self) -> None:
        """Shake hands; the last flight stays in `outgoing` if it is ours."""
        while True:
            try:
                self.tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self.flush()
                self.receive()

    def receive(self) -> None:
        """Take what comes; EOFError at the end of the connection."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError("the connection was closed")
        self.incoming.write(data)

    def drain(self) -> None:
        """Receive to the end of the connection, which is an EOFError."""
        while True:
            self.receive()

    def flush(self) -> None:
        """Send what OpenSSL has written."""
        self.socket.sendall(self.outgoing.read())

    def record(self, data: bytes) -> bytes:
        """These bytes as TLS records, not sent yet."""
        self.tls.write(data)
        return self.outgoing.read()

    def send(self, data: bytes) -> None:
        """Send these bytes at once."""
        self.socket.sendall(self.record(data))

    def read_exactly(self, size: int) -> bytes:
        while len(self.plain) < size:
            try:
                data = self.tls.read(1 << 16)
            except ssl.SSLWantReadError:
                self.receive()
                continue
            if not data:
                raise EOFError("the peer said goodbye")
            self.plain += data
        found, self.plain = self.plain[:size], self.plain[size:]
        return found


@pytest.fixture
def tls_proxy(start_proxy: StartProxy, authority: Authority) -> ProxyProcess:
    return start_proxy(client_tls_cert=str(authority.certificate), client_tls_key=str(authority.key))


def logged_in(proxy: ProxyProcess) -> RecordClient:
    client = RecordClient(proxy)
    client.handshake()
    client.flush()
    client.log_in()
    return client


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_startup_packet_behind_the_handshake_in_one_packet_is_read(
    tls_proxy: ProxyProcess, version: ssl.TLSVersion
) -> None:
    """Also with direct TLS, whose handshake no byte comes before."""
    for direct in (False, True):
        with RecordClient(tls_proxy, direct=direct, version=version) as client:
            client.handshake()
            startup = encode.startup_message({"user": tls_proxy.database.user, "database": tls_proxy.database.name})
            client.tls.write(startup)
            client.flush()
            assert client.read()[0] == "R"


def test_a_record_may_come_in_two_halves_with_others_in_between(tls_proxy: ProxyProcess) -> None:
    clients = [logged_in(tls_proxy) for _ in range(3)]
    records = [client.record(encode.query(f"SELECT {n}, '{'x' * 5000 * n}'")) for n, client in enumerate(clients)]
    for cut in (1, 4, 5, 6, 20, len(records[0]) - 1):
        for client, record in zip(clients, records, strict=True):
            client.socket.sendall(record[:cut])
        with tls_proxy.connect(sslmode="require") as conn:
            assert conn.execute("SELECT 'whole'").fetchone() == ("whole",)
        for client, record in zip(clients, records, strict=True):
            client.socket.sendall(record[cut:])
        for n, client in enumerate(clients):
            row = next(body for kind, body in client.read_until() if kind == "D")
            assert row[6:7] == str(n).encode()
            assert len(row) == 2 + 4 + 1 + 4 + 5000 * n
        records = [client.record(encode.query(f"SELECT {n}, '{'x' * 5000 * n}'")) for n, client in enumerate(clients)]
    for client in clients:
        client.socket.close()


@pytest.mark.parametrize("kind", ["tampered", "garbage", "an older protocol's header"])
def test_a_broken_record_ends_its_connection_and_no_other(tls_proxy: ProxyProcess, kind: str) -> None:
    with logged_in(tls_proxy) as bystander, logged_in(tls_proxy) as client:
        half = bystander.record(encode.query("SELECT 1"))
        bystander.socket.sendall(half[:7])
        record = bytearray(client.record(encode.query("SELECT 1")))
        if kind == "tampered":
            record[-1] ^= 1
        elif kind == "garbage":
            record = bytearray(random.Random(1).randbytes(300))
        else:
            record[1:3] = b"\2\0"
        # More behind it, which belongs to nobody then.
        client.socket.sendall(bytes(record) + b"\x17\x03\x03\x00\x20" + bytes(32) + b"\x17\x03")
        with pytest.raises((ssl.SSLError, EOFError, ConnectionError)):
            client.read_exactly(1 << 20)
        bystander.socket.sendall(half[7:])
        assert "D" in [kind for kind, _ in bystander.read_until()]
    with tls_proxy.connect(sslmode="require") as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_tls_cut_into_random_pieces_both_ways(tls_proxy: ProxyProcess) -> None:
    with Relay("127.0.0.1", tls_proxy.port) as relay:
        for seed in (1, 2, 3):
            sizes = random.Random(seed)
            relay.split(partial(sizes.randint, 1, 400))
            with tls_proxy.connect(port=relay.port, sslmode="require") as conn:
                for size in (0, 1, 1000, 16_384, 16_385, 40_000):
                    assert conn.execute("SELECT %s", ["x" * size]).fetchone() == ("x" * size,)


def test_the_proxy_says_goodbye_and_takes_one(tls_proxy: ProxyProcess) -> None:
    """A client that sees no close_notify cannot tell an end from a cut."""
    with logged_in(tls_proxy) as client:
        client.send(encode.terminate())
        with pytest.raises(EOFError, match="the peer said goodbye"):
            client.read()
    with logged_in(tls_proxy) as client:
        client.send(encode.query("BEGIN"))
        client.read_until()
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.unwrap()
        client.flush()
        with pytest.raises(EOFError):
            client.drain()


def test_a_client_that_leaves_in_a_handshake_leaves_nothing(tls_proxy: ProxyProcess) -> None:
    client = RecordClient(tls_proxy)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    hello = client.outgoing.read()
    client.socket.close()
    for cut in (1, 5, 60, len(hello)):
        with RecordClient(tls_proxy) as client:
            client.socket.sendall(hello[:cut])
    with RecordClient(tls_proxy) as client:
        client.socket.sendall(b"\x16\x03\x01\x00\x05hello and more")
        with pytest.raises((ssl.SSLError, EOFError, ConnectionError)):
            client.handshake()
    with tls_proxy.connect(sslmode="require") as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_old_versions_are_refused_with_an_alert(tls_proxy: ProxyProcess) -> None:
    with socket.create_connection(("127.0.0.1", tls_proxy.port), timeout=60) as raw:
        raw.sendall(encode.ssl_request())
        assert raw.recv(1) == b"S"
        # A ClientHello of TLS 1.1 with one cipher suite, and no extensions.
        body = b"\3\2" + bytes(32) + b"\0" + b"\0\2\0\x2f" + b"\1\0"
        hello = b"\1" + len(body).to_bytes(3, "big") + body
        raw.sendall(b"\x16\3\1" + len(hello).to_bytes(2, "big") + hello)
        answer = raw.recv(100)
        assert answer == b"" or answer[0] == 0x15, "the end, or an alert"


def test_both_sides_in_tls_at_once(
    start_proxy: StartProxy,
    authority: Authority,
    database: Database,
    tls_relay: Callable[[int, ssl.SSLContext], TLSRelay],
) -> None:
    relay = tls_relay(database.server.port, authority.context("127.0.0.1"))
    proxy = start_proxy(
        default_pool_size=2,
        client_tls_cert=str(authority.certificate),
        client_tls_key=str(authority.key),
        database_settings={"port": relay.port, "tls": "verify-full", "tls_ca": str(authority.ca)},
    )
    conns = [proxy.connect(sslmode="require") for _ in range(5)]
    for n, conn in enumerate(conns):
        for size in (1, 20_000, 500_000):
            assert conn.execute("SELECT %s", [str(n) * size]).fetchone() == (str(n) * size,)
        with conn.cursor() as cursor, cursor.copy("COPY (SELECT generate_series(1, 30000)) TO STDOUT") as copy:
            assert sum(1 for _ in copy.rows()) == 30_000
    for conn in conns:
        conn.close()
    eventually(lambda: relay.handshakes >= 1)
