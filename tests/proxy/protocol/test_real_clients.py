"""Real clients, libpq's above all, log in to the proxy's side of the protocol."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme
from tests.proxy.protocol.streams import SOCKET_TIMEOUT, SocketStream, end_point, run

from tidegate_load.postgres import postgres_home
from tidegate_proxy.errors import ProxyError
from tidegate_proxy.protocol import decode, encode, wire
from tidegate_proxy.protocol.login_client import (
    authenticate_client,
    authenticate_client_cleartext,
    greeting,
)
from tidegate_proxy.protocol.scram import ScramVerifier

USERS = {"ann": ScramVerifier.from_password("s3cret"), "zo\xeb": ScramVerifier.from_password("gr\xfc\xdfe")}
PARAMETERS = {
    b"server_version": b"18.0",
    b"server_encoding": b"UTF8",
    b"client_encoding": b"UTF8",
    b"tidegate.version": b"1",
}
Authenticate = Callable[[SocketStream, str], Coroutine[Any, Any, None]]


async def by_scram(stream: SocketStream, user: str) -> None:
    await authenticate_client(stream, user, USERS.get(user))


async def by_cleartext(stream: SocketStream, user: str) -> None:
    async def check(password: bytes) -> bool:
        return password == b"s3cret"

    await authenticate_client_cleartext(stream, user, check)


class LoginServer:
    """Lets one client after another log in and then waits until it leaves."""

    def __init__(self, authenticate: Authenticate, folder: Path) -> None:
        self._authenticate = authenticate
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1")
        self.root = folder / "root.pem"
        authority.cert_pem.write_to_path(str(self.root))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        pem = certificate.cert_chain_pems[0].bytes().decode()
        self._channel_binding = end_point(ssl.PEM_cert_to_DER_cert(pem))
        self.fault: BaseException | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            # Wakes up the accept() that the thread waits in.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._thread.join(SOCKET_TIMEOUT)
            self._listener.close()
        assert not self._thread.is_alive()
        if self.fault is not None:
            raise self.fault

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                self._handle(client)
            except ConnectionError:
                pass
            except BaseException as error:
                self.fault = error
            finally:
                client.close()

    def _handle(self, client: socket.socket) -> None:
        stream = SocketStream(client)
        try:
            first = self._first_packet(stream)
            if first == decode.SSLRequest():
                stream.write(b"S")
                secured = self._context.wrap_socket(client, server_side=True)
                stream = SocketStream(secured, channel_binding=self._channel_binding)
                first = self._first_packet(stream)
            assert isinstance(first, decode.StartupMessage)
            if first.minor or first.unsupported_protocol_options:
                stream.write(encode.negotiate_protocol_version(first.unsupported_protocol_options))
            try:
                run(self._authenticate(stream, first.user))
            except ProxyError as error:
                stream.write(encode.error_response(error, fatal=True))
                return
            stream.write(greeting(PARAMETERS, 1234, b"keys"))
            assert run(stream.read_message(100))[0] == wire.TERMINATE
        finally:
            stream.close()

    @staticmethod
    def _first_packet(stream: SocketStream) -> object:
        size = int.from_bytes(stream.read_exactly(4)) - 4
        assert size <= wire.MAX_STARTUP_PACKET
        return decode.parse_startup(stream.read_exactly(size))

    def connect(self, *, user: str = "ann", password: str = "s3cret", **keywords: Any) -> None:
        """Log in with libpq and look at what it understood."""
        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=user,
            password=password,
            gssencmode="disable",
            connect_timeout=int(SOCKET_TIMEOUT),
            autocommit=True,
            **{"sslmode": "disable"} | keywords,
        ) as conn:
            assert conn.info.parameter_status("tidegate.version") == "1"
            assert conn.info.backend_pid == 1234


@pytest.fixture
def scram(tmp_path: Path) -> Iterator[LoginServer]:
    server = LoginServer(by_scram, tmp_path)
    with server.running():
        yield server


@pytest.fixture
def cleartext(tmp_path: Path) -> Iterator[LoginServer]:
    server = LoginServer(by_cleartext, tmp_path)
    with server.running():
        yield server


def test_libpq_logs_in_by_scram(scram: LoginServer) -> None:
    scram.connect()
    scram.connect(user="zo\xeb", password="gr\xfc\xdfe")


def test_libpq_insists_on_scram_and_gets_it(scram: LoginServer) -> None:
    scram.connect(require_auth="scram-sha-256")


@pytest.mark.parametrize(("user", "password"), [("ann", "wrong"), ("nobody", "s3cret"), ("ann", "s3cret ")])
def test_libpq_is_told_what_postgresql_would_tell_it(scram: LoginServer, user: str, password: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=f'password authentication failed for user "{user}"'):
        scram.connect(user=user, password=password)


def test_libpq_binds_to_the_channel_inside_tls(scram: LoginServer) -> None:
    scram.connect(sslmode="verify-ca", sslrootcert=str(scram.root), channel_binding="require")


@pytest.mark.parametrize("channel_binding", ["prefer", "disable"])
def test_libpq_logs_in_inside_tls_with_and_without_channel_binding(scram: LoginServer, channel_binding: str) -> None:
    scram.connect(sslmode="require", channel_binding=channel_binding)


def test_libpq_gives_its_cleartext_password_inside_tls(cleartext: LoginServer) -> None:
    cleartext.connect(sslmode="require")
    with pytest.raises(psycopg.OperationalError, match='password authentication failed for user "ann"'):
        cleartext.connect(sslmode="require", password="wrong")


def test_libpq_is_told_to_use_tls_before_it_gives_its_password(cleartext: LoginServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="sslmode=require"):
        cleartext.connect(sslmode="disable", password="not even asked for")


def test_psql_logs_in(scram: LoginServer) -> None:
    environment = os.environ | {"PGPASSWORD": "s3cret"}
    result = subprocess.run(
        [
            postgres_home() / "bin/psql",
            "--no-psqlrc",
            "--command=\\echo :USER :SERVER_VERSION_NAME",
            f"host=127.0.0.1 port={scram.port} user=ann dbname=shop",
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SOCKET_TIMEOUT,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("ann 18.0\n", "", 0)
