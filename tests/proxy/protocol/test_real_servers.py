"""The proxy's login against real PostgreSQL servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from psycopg import sql
from tests.proxy.protocol.streams import SOCKET_TIMEOUT, SocketStream, run

from tidegate_load.postgres import EmbeddedPostgres
from tidegate_proxy.errors import ProxyError, ServerProtocolError, TargetRefusedError
from tidegate_proxy.protocol import decode, encode, wire
from tidegate_proxy.protocol.login_server import Welcome, login_server
from tidegate_proxy.protocol.scram import ScramVerifier

METHODS = {"by_scram": "scram-sha-256", "by_md5": "md5", "by_password": "password", "by_trust": "trust"}
PASSWORDS = [
    "s3cret",
    "with space, comma = and 'quote'",
    "\x07bell",
    "\N{LATIN SMALL LETTER E WITH ACUTE}",
    "e\N{COMBINING ACUTE ACCENT}",
    "I\N{SOFT HYPHEN}X",
    "\N{SOFT HYPHEN}",
    "\N{ROMAN NUMERAL NINE}",
    "no\N{NO-BREAK SPACE}break",
    "\N{HEBREW LETTER ALEF}1",
    "\N{HEBREW LETTER ALEF}a",
    "\ue000private",
    "\N{GRINNING FACE}",
    "x" * 500,
]


@pytest.fixture(scope="module", params=["18", "16"])
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedPostgres]:
    hba = [f"host all {user} 127.0.0.1/32 {method}" for user, method in METHODS.items()]
    hba += ["host all barred 127.0.0.1/32 reject", "host all all 127.0.0.1/32 scram-sha-256"]
    settings = {"password_encryption": "scram-sha-256"}
    if request.param == "18":
        settings["md5_password_warnings"] = "on"
    with EmbeddedPostgres(request.param, hba=hba, settings=settings) as embedded:
        for user in (*METHODS, "barred"):
            embedded.create_user(user, "s3cret")
        with embedded.connect() as conn:
            conn.execute("SET password_encryption = 'md5'")
            conn.execute("ALTER ROLE by_md5 PASSWORD 's3cret'")
        yield embedded


def connected(server: EmbeddedPostgres) -> closing[SocketStream]:
    return closing(SocketStream.connect(server.host, server.port))


def login(
    stream: SocketStream,
    user: str,
    password: str | None = "s3cret",
    database: str = "postgres",
    **parameters: str,
) -> Welcome:
    return run(login_server(stream, user=user, database=database, password=password, parameters=parameters))


def refused(server: EmbeddedPostgres, user: str, password: str | None = "s3cret", **keywords: str) -> ProxyError:
    with connected(server) as stream, pytest.raises(ProxyError) as caught:
        login(stream, user, password, **keywords)
    return caught.value


def rows(stream: SocketStream, text: str) -> list[bytes]:
    """The first column of what a query returns; raises the server's error."""
    stream.write(encode.query(text))
    values = []
    while True:
        kind, body = run(stream.read_message(1_000_000))
        if kind == wire.DATA_ROW:
            values.append(body[6 : 6 + int.from_bytes(body[2:6])])
        elif kind == wire.ERROR_RESPONSE:
            raise decode.error_from_fields(decode.parse_error_fields(body))
        elif kind == wire.READY_FOR_QUERY:
            return values


@pytest.mark.parametrize("user", METHODS)
def test_every_method_logs_in_and_the_session_works(server: EmbeddedPostgres, user: str) -> None:
    with connected(server) as stream:
        welcome = login(stream, user, application_name="tidegate test", extra_float_digits="2")
        assert welcome.parameters[b"application_name"] == b"tidegate test"
        assert welcome.parameters[b"server_version"].startswith(server.version.encode())
        assert rows(stream, "SELECT session_user") == [user.encode()]
        assert rows(stream, "SHOW extra_float_digits") == [b"2"]
        assert rows(stream, "SELECT pg_backend_pid()") == [str(welcome.pid).encode()]


@pytest.mark.parametrize("user", ["by_scram", "by_md5", "by_password"])
def test_a_wrong_password_is_refused_in_the_servers_own_words(server: EmbeddedPostgres, user: str) -> None:
    error = refused(server, user, "wrong")
    assert isinstance(error, TargetRefusedError)
    assert error.sqlstate == "28P01"
    assert error.message == f'password authentication failed for user "{user}"'


@pytest.mark.parametrize("user", ["by_scram", "by_md5", "by_password"])
def test_a_missing_password_is_our_own_error(server: EmbeddedPostgres, user: str) -> None:
    assert "none is configured" in refused(server, user, None).message


def test_no_such_database_no_such_user_and_no_entry_are_told_apart(server: EmbeddedPostgres) -> None:
    assert refused(server, "by_scram", database="nowhere").sqlstate == "3D000"
    assert refused(server, "nobody_at_all").sqlstate == "28P01"
    assert refused(server, "barred").sqlstate == "28000"
    assert refused(server, "by_trust", no_such_setting="1").sqlstate == "42704"


def test_the_key_that_the_server_gave_cancels_its_query(server: EmbeddedPostgres) -> None:
    with connected(server) as stream:
        welcome = login(stream, "by_scram")
        stream.write(encode.query("SELECT pg_sleep(600)"))
        with connected(server) as other:
            login(other, "by_scram")
            active = f"SELECT 1 FROM pg_stat_activity WHERE pid = {welcome.pid} AND wait_event = 'PgSleep'"
            deadline = time.monotonic() + SOCKET_TIMEOUT
            while not rows(other, active):
                assert time.monotonic() < deadline, "the query did not start"
        with connected(server) as canceller:
            canceller.write(encode.cancel_request(welcome.pid, welcome.key))
        kind, body = run(stream.read_message(100_000))
        while kind != wire.ERROR_RESPONSE:
            kind, body = run(stream.read_message(100_000))
        assert decode.parse_error_fields(body)["C"] == "57014"


@pytest.mark.parametrize("number", range(len(PASSWORDS)))
def test_a_password_is_prepared_as_the_server_prepares_it(server: EmbeddedPostgres, number: int) -> None:
    # PostgreSQL derives one verifier itself and takes one of ours for another role: both must fit.
    password = PASSWORDS[number]
    ours, theirs = f"ours{number}", f"theirs{number}"
    derived = ScramVerifier.from_password(password)
    with server.connect() as conn:
        for role, secret in ((ours, str(derived)), (theirs, password)):
            conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(secret)))
        stored = conn.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [theirs]).fetchone()
    assert stored is not None
    verifier = ScramVerifier.parse(stored[0])
    assert verifier == ScramVerifier.from_password(password, verifier.iterations, verifier.salt)
    for role in (ours, theirs):
        with connected(server) as stream:
            login(stream, role, password)
        assert refused(server, role, password + "x").sqlstate == "28P01"
        psycopg.connect(**server.parameters(user=role, password=password)).close()


def test_too_few_iterations_are_reported_with_the_remedy(server: EmbeddedPostgres) -> None:
    # A false server that could name a small count would get something easy to guess the password from.
    with server.connect() as conn:
        conn.execute("SET scram_iterations = 1024")
        conn.execute("CREATE ROLE hasty LOGIN PASSWORD 's3cret'")
    error = refused(server, "hasty")
    assert isinstance(error, ServerProtocolError)
    assert "scram_iterations" in str(error.hint)
