"""The proxy as a client: scripted servers, good and bad."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proxy.protocol.streams import DuplexStream, ScriptedStream, converse, run

from tidegate_proxy.errors import (
    AuthenticationError,
    ProxyError,
    ServerProtocolError,
    TargetRefusedError,
)
from tidegate_proxy.protocol import encode, wire
from tidegate_proxy.protocol.login_client import authenticate_client, greeting
from tidegate_proxy.protocol.login_server import Welcome, login_server
from tidegate_proxy.protocol.scram import ScramVerifier

STARTUP = b"\0\0\0\x1b\0\3\0\0user\0u\0database\0d\0\0"
GREETING = greeting({b"a": b"1"}, 7, b"keys")
TRUSTED = Welcome({b"a": b"1"}, 7, b"keys")
WELCOME = replace(TRUSTED, asked=True)
CLEARTEXT = b"R\0\0\0\x08\0\0\0\3"
MD5 = b"R\0\0\0\x0c\0\0\0\5\1\2\3\4"
SASL = encode.authentication_sasl(["SCRAM-SHA-256"])
ERROR = b"E\0\0\0\x27SFATAL\0VFATAL\0C53300\0Msorry\0Dd\0Hh\0\0"
VERIFIER = ScramVerifier.from_password("s3cret", salt=bytes(16))


def login(
    *messages: bytes, password: str | None = "s3cret", secure: bool = False, allow_cleartext: bool = True
) -> tuple[Welcome, bytes]:
    stream = ScriptedStream(*messages, secure=secure)
    stream.fault = ServerProtocolError
    welcome = run(
        login_server(
            stream,
            user="u",
            database="d",
            password=password,
            parameters={},
            allow_cleartext=allow_cleartext,
        )
    )
    assert stream.written.startswith(STARTUP)
    return welcome, stream.written.removeprefix(STARTUP)


def test_a_server_that_trusts_us_is_told_nothing() -> None:
    assert login(GREETING) == (TRUSTED, b"")
    assert login(GREETING, password=None) == (TRUSTED, b"")


def test_settings_go_into_the_startup_message_but_never_replace_user_and_database() -> None:
    stream = ScriptedStream(GREETING)
    parameters = {"application_name": "x", "user": "postgres"}
    run(login_server(stream, user="u", database="d", password=None, parameters=parameters))
    assert stream.written == encode.startup_message({"application_name": "x", "user": "u", "database": "d"})


def test_a_server_that_asks_for_it_gets_the_password() -> None:
    assert login(CLEARTEXT, GREETING) == (WELCOME, b"p\0\0\0\x0bs3cret\0")


def test_a_server_that_asks_for_md5_gets_the_hash() -> None:
    # md5 of "s3cretu" in hex, then with the salt 01 02 03 04
    assert login(MD5, GREETING) == (WELCOME, b"p\0\0\0\x28md562d5031ffd93806cd7387e6e7357e33c\0")


def test_a_cleartext_password_leaves_only_inside_tls_where_that_is_asked_for() -> None:
    with pytest.raises(AuthenticationError, match="cleartext password outside TLS"):
        login(CLEARTEXT, GREETING, allow_cleartext=False)
    assert login(CLEARTEXT, GREETING, allow_cleartext=False, secure=True)[0] == WELCOME


@pytest.mark.parametrize("request_", [CLEARTEXT, MD5, SASL], ids=["cleartext", "md5", "SCRAM"])
def test_a_missing_password_is_reported_with_the_remedy(request_: bytes) -> None:
    with pytest.raises(AuthenticationError, match="none is configured") as caught:
        login(request_, GREETING, password=None)
    assert "Configure the password" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("code", "name"), [(2, "Kerberos"), (6, "SCM"), (7, "GSSAPI"), (9, "SSPI"), (99, "number 99"), (11, "number 11")]
)
def test_a_method_that_we_do_not_speak_is_named(code: int, name: str) -> None:
    with pytest.raises(AuthenticationError, match=f"asks for {name}"):
        login(encode.message(wire.AUTHENTICATION, code.to_bytes(4)), GREETING)


def test_mechanisms_that_we_do_not_speak_are_named() -> None:
    with pytest.raises(AuthenticationError) as caught:
        login(encode.authentication_sasl(["OAUTHBEARER"]), GREETING)
    assert "OAUTHBEARER" in str(caught.value.detail)


NOTICE = encode.message(wire.NOTICE_RESPONSE, b"SWARNING\0VWARNING\0C01P01\0Mmd5 is deprecated\0\0")


@pytest.mark.parametrize("before", [b"", CLEARTEXT, GREETING[:9], GREETING[:-6]])
def test_the_servers_own_refusal_is_kept(before: bytes) -> None:
    with pytest.raises(TargetRefusedError) as caught:
        login(before, ERROR)
    error = caught.value
    assert (error.sqlstate, error.message, error.detail, error.hint) == ("53300", "sorry", "d", "h")


def test_notices_and_a_negotiation_of_the_version_are_passed_over() -> None:
    negotiation = encode.negotiate_protocol_version([])
    assert login(negotiation, NOTICE, MD5, NOTICE, GREETING[:9], NOTICE, GREETING[9:])[0] == WELCOME


def test_a_server_without_cancel_keys_is_tolerated() -> None:
    assert login(encode.authentication_ok(), encode.ready_for_query(wire.IDLE))[0] == Welcome({}, 0, b"")


def test_the_cancel_key_is_a_secret_and_not_shown() -> None:
    assert "keys" not in repr(WELCOME)


@pytest.mark.parametrize(
    "messages",
    [
        [encode.ready_for_query(wire.IDLE)],
        [encode.parameter_status(b"a", b"1"), GREETING],
        [encode.backend_key_data(1, b"keys"), GREETING],
        [CLEARTEXT, encode.ready_for_query(wire.IDLE)],
        [GREETING[:9], GREETING],
        [GREETING[:9], CLEARTEXT],
        [CLEARTEXT, CLEARTEXT, GREETING],
        [MD5, CLEARTEXT, GREETING],
        [encode.authentication_ok(), b"Z\0\0\0\x05T"],
        [encode.authentication_ok(), b"Z\0\0\0\4"],
        [encode.authentication_ok(), b"T\0\0\0\6\0\0"],
        [encode.authentication_ok(), b"S\0\0\0\5a"],
        [encode.authentication_ok(), b"K\0\0\0\6ab"],
        [b"R\0\0\0\4"],
        [b"R\0\0\0\7\0\0\0"],
        [b"R\0\0\0\x09\0\0\0\0x"],
        [b"R\0\0\0\x0b\0\0\0\5abc"],
        [b"R\0\0\0\x08\0\0\0\x0a"],
        [b"R\0\0\0\x09\0\0\0\x0aA"],
        [b"R\0\1\0\5"],
        [b"R\x7f\xff\xff\xff"],
        [b"R\0\0\0\3"],
        [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    ],
)
def test_what_does_not_belong_into_a_login_is_refused(messages: list[bytes]) -> None:
    with pytest.raises(ServerProtocolError):
        login(*messages)


def test_a_server_that_never_comes_to_the_point_is_left() -> None:
    with pytest.raises(ServerProtocolError, match="more than 1000 messages"):
        login(*[NOTICE] * 1001)


def test_a_server_that_goes_away_is_a_lost_connection() -> None:
    with pytest.raises(ConnectionResetError):
        login(GREETING[:-1])


# -- both sides against each other ---------------------------------------------------------------------------

Change = Callable[[int, bytes], bytes]


def unchanged(number: int, message: bytes) -> bytes:
    return message


def talk(
    *,
    password: str = "s3cret",
    secret: ScramVerifier | None = VERIFIER,
    binding: bytes | None = None,
    from_server: Change = unchanged,
    from_client: Change = unchanged,
) -> tuple[object, object]:
    """Our client logs in to our server; what each sends may be changed under way. Returns what came of both."""
    client, server = DuplexStream(channel_binding=binding), DuplexStream(channel_binding=binding)
    client.peer, server.peer = server, client
    client.change, server.change = from_client, from_server
    client.fault = ServerProtocolError

    async def serve() -> str:
        await authenticate_client(server, "u", secret)
        server.write(GREETING)
        return "served"

    return converse(
        (client, login_server(client, user="u", database="d", password=password, parameters={})),
        (server, serve()),
    )


@pytest.mark.parametrize("binding", [None, bytes(32)], ids=["plain", "TLS"])
def test_both_sides_understand_each_other(binding: bytes | None) -> None:
    assert talk(binding=binding) == (WELCOME, "served")


@pytest.mark.parametrize("secret", [VERIFIER, None], ids=["wrong password", "unknown user"])
def test_both_sides_notice_a_wrong_password(secret: ScramVerifier | None) -> None:
    client, server = talk(password="wrong", secret=secret)
    assert isinstance(server, AuthenticationError)
    assert isinstance(client, ConnectionError)


@pytest.mark.parametrize("answers", [0, 1])
@pytest.mark.parametrize("then", [GREETING, CLEARTEXT + GREETING, MD5 + GREETING, SASL + GREETING])
def test_a_server_that_leaves_scram_before_it_proved_itself_is_refused(answers: int, then: bytes) -> None:
    client, _ = talk(from_server=lambda number, message: message if number <= answers else then)
    assert isinstance(client, ServerProtocolError)
    assert "before it proved" in client.message


def test_a_server_that_proves_nothing_is_refused() -> None:
    false = encode.authentication_sasl_final(b"v=" + base64.b64encode(bytes(32)))
    client, _ = talk(from_server=lambda number, message: false if number == 2 else message)
    assert isinstance(client, ServerProtocolError)
    assert "did not prove" in client.message


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("how", ["lost", "doubled", "cut", "emptied", "another type"])
def test_a_damaged_message_of_the_server_is_an_error_of_ours(number: int, how: str) -> None:
    client, _ = talk(from_server=damage(number, how))
    # Lost or doubled settings and keys leave a session as good as before.
    harmless = {("lost", 4), ("doubled", 4), ("lost", 5), ("doubled", 5), ("doubled", 6)}
    if (how, number) in harmless:
        assert isinstance(client, Welcome)
    else:
        assert isinstance(client, (ProxyError, ConnectionError))


@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("how", ["lost", "doubled", "cut", "emptied", "another type"])
def test_a_damaged_message_of_the_client_is_an_error_of_ours(number: int, how: str) -> None:
    _, server = talk(from_client=damage(number, how))
    if (how, number) == ("doubled", 1):
        assert server == "served"  # the second one is for whoever reads on
    else:
        assert isinstance(server, (ProxyError, ConnectionError))


def damage(number: int, how: str) -> Change:
    def change(current: int, message: bytes) -> bytes:
        if current != number:
            return message
        return {
            "lost": b"",
            "doubled": message * 2,
            "cut": message[:-1],
            "emptied": message[:1] + b"\0\0\0\4",
            "another type": b"T" + message[1:],
        }[how]

    return change


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 3), st.integers(0, 200), st.integers(1, 255), st.booleans())
def test_no_changed_byte_in_authentication_goes_unnoticed(
    number: int, position: int, difference: int, by_server: bool
) -> None:
    changed = False

    def change(current: int, message: bytes) -> bytes:
        nonlocal changed
        # The last digit before the padding of base64 has two bits that mean nothing.
        if current != number or position >= len(message) or position == len(message) - 2:
            return message
        changed = True
        damaged = bytearray(message)
        damaged[position] ^= difference
        return bytes(damaged)

    client, server = talk(**{"from_server" if by_server else "from_client": change})  # type: ignore[arg-type]
    assert not changed or (client, server) != (WELCOME, "served")


@settings(deadline=None)
@given(st.lists(st.sampled_from([GREETING, CLEARTEXT, MD5, SASL, ERROR]) | st.binary(max_size=40), max_size=4))
def test_whatever_a_server_sends_it_is_a_welcome_or_an_error_of_ours(messages: list[bytes]) -> None:
    with contextlib.suppress(ProxyError, ConnectionError):
        assert isinstance(login(*messages)[0], Welcome)
