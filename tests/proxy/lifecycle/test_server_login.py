"""How the proxy logs in to servers: TLS in all its modes, and every method that PostgreSQL may ask for."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import trustme
from tests.proxy.lifecycle.conftest import Authority
from tests.proxy.lifecycle.tls_relay import TLSRelay
from tests.support.postgres import Database
from tests.support.proxy import StartProxy

from tidegate_load.postgres import EmbeddedPostgres

MakeTLSRelay = Callable[[int, ssl.SSLContext], TLSRelay]


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_tls_to_the_server(
    start_proxy: StartProxy, database: Database, authority: Authority, tls_relay: MakeTLSRelay, mode: str
) -> None:
    relay = tls_relay(database.server.port, authority.context("127.0.0.1"))
    settings = {"port": relay.port, "tls": mode} | ({} if mode == "require" else {"tls_ca": str(authority.ca)})
    proxy = start_proxy(default_pool_size=1, database_settings=settings)
    with proxy.connect() as conn:
        assert conn.execute("SELECT repeat('x', 3000000)").fetchone() == ("x" * 3_000_000,)
        assert conn.execute("SELECT length(%s)", ["x" * 3_000_000]).fetchone() == (3_000_000,)
        with conn.cursor() as cursor, cursor.copy("COPY (SELECT generate_series(1, 10000)) TO STDOUT") as copy:
            assert sum(1 for _ in copy.rows()) == 10_000
        conn.cancel_safe()
        assert conn.execute("SELECT 1").fetchone() == (1,)
    assert relay.handshakes > 0


UNTRUSTED = {
    "another authority": (("127.0.0.1",), "verify-full", "unable to get local issuer certificate|self-signed"),
    "another authority, for verify-ca": (("127.0.0.1",), "verify-ca", "local issuer certificate|self-signed"),
    "another host name": (("db.example.com",), "verify-full", "IP address mismatch.*'127.0.0.1'"),
}


@pytest.mark.parametrize("name", UNTRUSTED)
def test_a_certificate_that_is_not_trusted_is_said_at_once(
    start_proxy: StartProxy,
    database: Database,
    authority: Authority,
    tls_relay: MakeTLSRelay,
    name: str,
    tmp_path: Path,
) -> None:
    names, mode, words = UNTRUSTED[name]
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    relay = tls_relay(database.server.port, authority.context(*names))
    ca = other if "authority" in name else authority.ca
    proxy = start_proxy(
        connection_borrow_timeout=3600, database_settings={"port": relay.port, "tls": mode, "tls_ca": str(ca)}
    )
    with pytest.raises(psycopg.OperationalError, match=f"not trusted: .*({words})") as refused:
        proxy.connect()
    assert '"tls_ca"' in str(refused.value)


def test_verify_ca_does_not_mind_the_host_name(
    start_proxy: StartProxy, database: Database, authority: Authority, tls_relay: MakeTLSRelay
) -> None:
    relay = tls_relay(database.server.port, authority.context("db.example.com"))
    proxy = start_proxy(database_settings={"port": relay.port, "tls": "verify-ca", "tls_ca": str(authority.ca)})
    with proxy.connect() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_server_without_tls_is_said_at_once(start_proxy: StartProxy) -> None:
    proxy = start_proxy(connection_borrow_timeout=3600, database_settings={"tls": "require"})
    with pytest.raises(psycopg.OperationalError, match=r'does not speak TLS(.|\n)*tls = "disable"'):
        proxy.connect()


def test_bytes_between_the_servers_yes_and_tls_are_refused(start_proxy: StartProxy, authority: Authority) -> None:
    """CVE-2021-23222: somebody in between could have put them there, and they would be taken for the server's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                connection, _ = listener.accept()
                with connection:
                    if connection.recv(8):
                        connection.sendall(b"S" + b"E\0\0\0\x20SFATAL\0C28P01\0Minjected\0\0")
                        connection.recv(1000)

        server = threading.Thread(target=serve)
        server.start()
        proxy = start_proxy(
            connection_borrow_timeout=2,
            database_settings={"port": listener.getsockname()[1], "tls": "verify-full", "tls_ca": str(authority.ca)},
        )
        with pytest.raises(psycopg.OperationalError, match="sent data before TLS was up") as refused:
            proxy.connect()
        assert "injected" not in str(refused.value)
        done.set()
        socket.create_connection(listener.getsockname()).close()
        server.join(20)
        assert not server.is_alive()


@pytest.fixture(scope="module")
def methods() -> Iterator[EmbeddedPostgres]:
    """A server that asks each user for its password in another way."""
    hba = [
        "host all by_md5 127.0.0.1/32 md5",
        "host all in_clear 127.0.0.1/32 password",
        "host all trusted 127.0.0.1/32 trust",
        "host all by_scram 127.0.0.1/32 scram-sha-256",
        "host all all 127.0.0.1/32 scram-sha-256",
    ]
    with EmbeddedPostgres("18", hba=hba, settings={"md5_password_warnings": "off"}) as server:
        with server.connect() as conn:
            conn.execute("SET password_encryption TO md5")
            conn.execute("CREATE ROLE by_md5 LOGIN PASSWORD 's3cret'")
            conn.execute("RESET password_encryption")
            for name in ("in_clear", "trusted", "by_scram"):
                conn.execute(f"CREATE ROLE {name} LOGIN PASSWORD 's3cret'")
        yield server


@pytest.mark.parametrize("user", ["by_md5", "in_clear", "trusted", "by_scram"])
def test_every_method_that_a_server_may_ask_for(start_proxy: StartProxy, methods: EmbeddedPostgres, user: str) -> None:
    settings = {"port": methods.port, "dbname": "postgres", "user": user}
    proxy = start_proxy(database_settings=settings | ({} if user == "trusted" else {"password": "s3cret"}))
    with proxy.connect() as conn:
        assert conn.execute("SELECT current_user").fetchone() == (user,)
    assert "s3cret" not in proxy.log.replace(proxy.database.password, "")


def test_authorities_that_can_no_longer_be_read_fail_logins_until_they_can(
    start_proxy: StartProxy, database: Database, authority: Authority, tls_relay: MakeTLSRelay, tmp_path: Path
) -> None:
    relay = tls_relay(database.server.port, authority.context("127.0.0.1"))
    authorities = tmp_path / "authorities.pem"
    authorities.write_bytes(authority.ca.read_bytes())
    proxy = start_proxy(database_settings={"port": relay.port, "tls": "verify-full", "tls_ca": str(authorities)})
    authorities.unlink()
    with pytest.raises(psycopg.OperationalError, match="could not connect to the target server by TLS"):
        proxy.connect()
    # Each attempt would be a line, if it were a fault of the proxy's; where the file is, only operators are told.
    assert f"tls_ca {authorities}: cannot be used" in proxy.log
    authorities.write_bytes(authority.ca.read_bytes())
    with proxy.connect() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
