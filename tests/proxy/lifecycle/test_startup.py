"""From the first byte to the first ReadyForQuery, as libpq, psql and hand-made clients do it."""

from __future__ import annotations

import socket
import ssl
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from tests.proxy.adversity.helpers import until_running, value
from tests.proxy.lifecycle.conftest import Authority
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy
from tests.support.rawclient import RawClient

from tidegate_proxy import __version__
from tidegate_proxy.protocol import encode, wire
from tidegate_proxy.protocol.scram import ScramVerifier


@pytest.fixture
def tls_proxy(start_proxy: StartProxy, authority: Authority) -> ProxyProcess:
    return start_proxy(client_tls_cert=str(authority.certificate), client_tls_key=str(authority.key))


def packet(code: int, body: bytes = b"") -> bytes:
    return struct.pack("!ii", 8 + len(body), code) + body


# -- in the clear ------------------------------------------------------------------------------------------------------


def test_tls_and_gss_are_refused_and_the_client_goes_on(proxy: ProxyProcess) -> None:
    with RawClient(proxy.parameters, login=False) as client:
        client.send(packet(wire.GSSENC_REQUEST))
        assert client.read_exactly(1) == b"N"
        client.send(packet(wire.SSL_REQUEST))
        assert client.read_exactly(1) == b"N"
        client.log_in()
        assert value(client, "SELECT 1") == "1"


def test_tls_that_is_preferred_is_done_without_and_required_is_an_error(proxy: ProxyProcess) -> None:
    with proxy.connect(sslmode="prefer") as conn:
        assert not conn.pgconn.ssl_in_use
    with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
        proxy.connect(sslmode="require")


def test_a_client_can_tell_who_serves_it(proxy: ProxyProcess) -> None:
    with RawClient(proxy.parameters) as client:
        assert client.reported[b"tidegate.version"] == __version__.encode()
        assert client.reported[b"tidegate.pool_mode"] == b"transaction"
        assert client.reported[b"server_version"].startswith(b"18")
        assert client.reported[b"client_encoding"] == b"UTF8"
        assert client.pid > 0
        assert len(client.key) == 4


@pytest.mark.parametrize("version", ["3.2", "latest"])
def test_newer_protocols_are_negotiated_down(proxy: ProxyProcess, version: str) -> None:
    with proxy.connect(max_protocol_version=version) as conn:
        assert conn.pgconn.full_protocol_version == 30000
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_unknown_protocol_options_are_named_in_the_negotiation(proxy: ProxyProcess) -> None:
    with RawClient(proxy.parameters, login=False) as client:
        parameters = b"user\0" + proxy.database.user.encode() + b"\0_pq_.new\0on\0\0"
        client.send(packet((3 << 16) + 9999, parameters))
        assert client.read() == ("v", struct.pack("!ii", wire.PROTOCOL_3_0, 1) + b"_pq_.new\0")
        assert client.read()[0] == "R"


def test_options_take_effect_and_parameters_win_over_them(proxy: ProxyProcess) -> None:
    options = "-c work_mem=1234kB --statement-timeout=12345 -c application_name=from\\ options"
    with RawClient(proxy.parameters, options=options, application_name="itself") as client:
        assert value(client, "SHOW work_mem") == "1234kB"
        assert value(client, "SHOW statement_timeout") == "12345ms"
        assert value(client, "SHOW application_name") == "itself"
        assert client.reported[b"application_name"] == b"itself"


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"password": "wrong"}, 'password authentication failed for user "{user}"'),
    ({"user": "nobody"}, 'password authentication failed for user "nobody"'),
    ({"dbname": "atlantis"}, 'database "atlantis" does not exist'),
    ({"replication": "true"}, "replication connections are not supported through the proxy"),
    ({"replication": "database"}, "replication connections are not supported through the proxy"),
    ({"options": "-c no_such_parameter=1"}, 'unrecognized configuration parameter "no_such_parameter"'),
    ({"options": "-c work_mem=plenty"}, 'invalid value for parameter "work_mem": "plenty"'),
]


@pytest.mark.parametrize(("keywords", "message"), REFUSALS)
def test_a_refused_login_says_why(proxy: ProxyProcess, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(psycopg.OperationalError) as refused:
        proxy.connect(**keywords)
    assert "FATAL:  " + message.format(user=proxy.database.user) in str(refused.value)


def test_an_unknown_database_is_told_only_to_those_who_know_a_password(proxy: ProxyProcess) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        proxy.connect(dbname="atlantis", password="wrong")


def test_a_user_may_be_known_by_a_verifier_alone(start_proxy: StartProxy, database: Database) -> None:
    proxy = start_proxy(database_settings={"user": database.user, "password": database.password})
    verifier = ScramVerifier.from_password("another password", iterations=5000)
    config = proxy.config.read_text() + f'[users.other]\nverifier = "{verifier}"\n'
    proxy.stop()
    proxy.config.write_text(config)
    with_verifier = type(proxy)(proxy.config.parent, database, config)
    try:
        with_verifier.wait_until_listening()
        with with_verifier.connect(user="other", password="another password") as conn:
            assert conn.execute("SELECT current_user").fetchone() == (database.user,)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            with_verifier.connect(user="other", password=database.password)
    finally:
        with_verifier.close()


# -- inside TLS --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_a_client_that_verifies_all_gets_in(tls_proxy: ProxyProcess, authority: Authority, negotiation: str) -> None:
    with tls_proxy.connect(
        sslmode="verify-full", sslrootcert=str(authority.ca), sslnegotiation=negotiation, channel_binding="require"
    ) as conn:
        assert conn.pgconn.ssl_in_use
        assert conn.execute("SELECT repeat('x', 3000000)").fetchone() == ("x" * 3_000_000,)
        assert conn.execute("SELECT length(%s)", ["x" * 3_000_000]).fetchone() == (3_000_000,)


@pytest.mark.parametrize("channel_binding", ["disable", "prefer", "require"])
def test_channel_binding(tls_proxy: ProxyProcess, channel_binding: str) -> None:
    with tls_proxy.connect(sslmode="require", channel_binding=channel_binding) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_tls_is_the_clients_choice_where_it_is_allowed(tls_proxy: ProxyProcess) -> None:
    with tls_proxy.connect(sslmode="disable") as conn:
        assert not conn.pgconn.ssl_in_use


def test_tls_that_is_required_is_required(start_proxy: StartProxy, authority: Authority) -> None:
    proxy = start_proxy(
        client_tls="require", client_tls_cert=str(authority.certificate), client_tls_key=str(authority.key)
    )
    with pytest.raises(psycopg.OperationalError, match="SSL connection is required"):
        proxy.connect(sslmode="disable")
    with proxy.connect(sslmode="require") as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    # A CancelRequest in the clear is what libpq's PQcancel sends even then.
    with proxy.connect(sslmode="require") as conn:
        conn.cancel()
        assert conn.execute("SELECT 1").fetchone() == (1,)


def client_context(*alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
def test_direct_tls_without_our_alpn_is_refused(tls_proxy: ProxyProcess, alpn: tuple[str, ...]) -> None:
    raw = socket.create_connection(("127.0.0.1", tls_proxy.port), timeout=60)
    with raw, client_context(*alpn).wrap_socket(raw) as client:
        data = b""
        while piece := client.recv(1000):
            data += piece
        assert b"without ALPN" in data


def test_direct_tls_where_there_is_none_is_closed(proxy: ProxyProcess) -> None:
    raw = socket.create_connection(("127.0.0.1", proxy.port), timeout=60)
    with raw, pytest.raises((ssl.SSLError, ConnectionError)):
        client_context("postgresql").wrap_socket(raw)


def test_bytes_between_the_request_for_tls_and_tls_are_refused(tls_proxy: ProxyProcess) -> None:
    """CVE-2021-23214: somebody in between could have put them there, and they would be taken for the client's."""
    with RawClient(tls_proxy.parameters, login=False) as client:
        client.send(encode.ssl_request() + encode.startup_message({"user": tls_proxy.database.user}))
        error = client.error_until("E")
        assert (error["C"], error["M"]) == ("08P01", "received unencrypted data after SSL request")
        assert client.is_closed()


def test_a_second_request_for_tls_within_tls_is_refused(tls_proxy: ProxyProcess) -> None:
    with RawClient(tls_proxy.parameters, login=False) as client:
        client.send(encode.ssl_request())
        assert client.read_exactly(1) == b"S"
        client.socket = client_context().wrap_socket(client.socket)
        client.send(encode.ssl_request())
        assert client.read_exactly(1) == b"N"
        client.log_in()
        assert value(client, "SELECT 1") == "1"


@pytest.mark.parametrize("broken", [b"\x16\x03\x01\xff\xff" + bytes(100), b"\x16", b"\x16\x03\x01\x00\x05hello"])
def test_a_broken_handshake_hurts_nobody(start_proxy: StartProxy, authority: Authority, broken: bytes) -> None:
    proxy = start_proxy(
        client_tls_cert=str(authority.certificate), client_tls_key=str(authority.key), client_login_timeout=3
    )
    with RawClient(proxy.parameters) as other:
        for request in (b"", encode.ssl_request()):
            with RawClient(proxy.parameters, login=False) as client:
                if request:
                    client.send(request)
                    assert client.read_exactly(1) == b"S"
                client.send(broken)
                assert client.socket.recv(1000) is not None
        assert value(other, "SELECT 1") == "1"


def test_a_query_is_cancelled_through_tls(tls_proxy: ProxyProcess) -> None:
    with tls_proxy.connect(sslmode="require") as conn, ThreadPoolExecutor(1) as executor:
        running = executor.submit(conn.execute, "SELECT pg_sleep(3600)")
        until_running(tls_proxy, "pg_sleep")
        conn.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            running.result(60)


def test_a_slow_reader_inside_tls_gets_everything_and_costs_little_memory(tls_proxy: ProxyProcess) -> None:
    with tls_proxy.connect(sslmode="require") as conn, tls_proxy.connect(sslmode="require") as other:
        other.execute("SELECT 1")
        before = tls_proxy.resident_memory()
        with conn.cursor() as cursor:
            total = 0
            for row in cursor.stream("SELECT repeat('x', 1000000) FROM generate_series(1, 100)"):
                total += len(row[0])
                if total % 20_000_000 == 0:
                    other.execute("SELECT 1")
            assert total == 100_000_000
        assert tls_proxy.resident_memory() - before < 16 << 20
