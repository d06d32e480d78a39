"""The proxy as a server: scripted clients, good and bad."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proxy.protocol.streams import ScriptedStream, frames, run

from tidegate_proxy.errors import AuthenticationError, ClientProtocolError, ProxyError
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.login_client import (
    authenticate_client,
    authenticate_client_cleartext,
    greeting,
)
from tidegate_proxy.protocol.scram import ScramVerifier

SECRET = ScramVerifier.from_password("s3cret", salt=bytes(16))
OFFER = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"
OFFER_IN_TLS = b"R\0\0\0\x2a\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"
FIRST = encode.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=abc")


def login(*messages: bytes) -> ScriptedStream:
    stream = ScriptedStream(*messages)
    run(authenticate_client(stream, "ann", SECRET))
    return stream


def refused(*messages: bytes) -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        login(*messages)
    return caught.value


@pytest.mark.parametrize(("channel_binding", "offer"), [(None, OFFER), (bytes(32), OFFER_IN_TLS)], ids=["plain", "TLS"])
def test_channel_binding_is_offered_inside_tls_only(channel_binding: bytes | None, offer: bytes) -> None:
    stream = ScriptedStream(secure=channel_binding is not None, channel_binding=channel_binding)
    with pytest.raises(ConnectionResetError):
        run(authenticate_client(stream, "ann", SECRET))
    assert stream.written == offer


def test_a_client_that_is_gone_is_not_an_error_of_ours() -> None:
    with pytest.raises(ConnectionResetError):
        login(FIRST[:-1])


def test_a_client_may_ask_to_be_asked_for_its_first_message() -> None:
    stream = ScriptedStream(b"p\0\0\0\x16SCRAM-SHA-256\0\xff\xff\xff\xff", encode.sasl_response(b"n,,n=,r=abc"))
    with pytest.raises(ConnectionResetError):
        run(authenticate_client(stream, "ann", SECRET))
    offer, empty, first = frames(stream.written)
    assert (offer, empty) == (OFFER, b"R\0\0\0\x08\0\0\0\x0b")
    assert first[5:].startswith(b"\0\0\0\x0br=abc")


def test_nothing_more_is_said_to_a_client_whose_proof_is_wrong() -> None:
    proof = encode.sasl_response(b"c=biws,r=abc,p=AAAA")
    stream = ScriptedStream(FIRST, proof)
    with pytest.raises(ProxyError):
        run(authenticate_client(stream, "ann", SECRET))
    assert len(frames(stream.written)) == 2


@pytest.mark.parametrize(
    "message",
    [
        b"Q\0\0\0\x0eselect 1;\0",
        b"X\0\0\0\4",
        b"S\0\0\0\4",
        b"\0\0\0\0\x04",
    ],
)
def test_any_other_message_during_authentication_is_refused(message: bytes) -> None:
    for script in ([message], [FIRST, message]):
        error = refused(*script)
        assert isinstance(error, ClientProtocolError)
        assert f"expected SASL response, got message type {message[0]}" in error.message


def test_a_second_startup_message_during_authentication_is_refused() -> None:
    # Its length word is read as a message type and most of a length.
    error = refused(encode.startup_message({"user": "ann", "application_name": "x" * 200}) + bytes(66_000))
    assert isinstance(error, ClientProtocolError)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "invalid string in message"),
        (b"SCRAM-SHA-256", "invalid string in message"),
        (b"SCRAM-SHA-256\0", "insufficient data left in message"),
        (b"SCRAM-SHA-256\0\0\0\0", "insufficient data left in message"),
        (b"SCRAM-SHA-256\0\0\0\0\x09n,,n=", "invalid message format"),
        (b"SCRAM-SHA-256\0\0\0\0\x00n,,n=", "invalid message format"),
        (b"SCRAM-SHA-256\0\xff\xff\xff\xffn,,n=", "invalid message format"),
        (b"SCRAM-SHA-256\0\x80\0\0\0", "invalid message format"),
        (b"SCRAM-SHA-256\0\0\0\0\0", "malformed SCRAM message"),
        (b"SCRAM-SHA-257\0\0\0\0\0", "client selected an invalid SASL authentication mechanism"),
        (b"\xff\0\0\0\0\0", "client selected an invalid SASL authentication mechanism"),
        (b"SCRAM-SHA-256-PLUS\0\0\0\0\0", "client selected an invalid SASL authentication mechanism"),
    ],
)
def test_a_malformed_initial_response_is_refused(body: bytes, message: str) -> None:
    error = refused(encode.sasl_response(body))
    assert isinstance(error, ClientProtocolError)
    assert error.message == message


@pytest.mark.parametrize("length", [1029, 2**31 - 1, 2**32 - 1, 0, 3])
def test_a_message_of_impossible_length_is_not_waited_for(length: int) -> None:
    assert isinstance(refused(b"p" + length.to_bytes(4) + bytes(10)), ClientProtocolError)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=3))
def test_no_sequence_of_messages_logs_in_without_the_password(bodies: list[bytes]) -> None:
    for head in ([], [FIRST]):
        with pytest.raises((ProxyError, ConnectionError)):
            login(*head, *map(encode.sasl_response, bodies))


# -- cleartext -----------------------------------------------------------------------------------------------


def judged_by(right: Callable[[bytes], bool]) -> Callable[[bytes], Awaitable[bool]]:
    async def check(password: bytes) -> bool:
        return right(password)

    return check


def cleartext(*messages: bytes, secure: bool = True) -> ScriptedStream:
    stream = ScriptedStream(*messages, secure=secure)
    run(authenticate_client_cleartext(stream, "ann", judged_by(lambda password: password == b"s3cret")))
    return stream


def test_a_cleartext_password_is_taken_inside_tls() -> None:
    assert cleartext(b"p\0\0\0\x0bs3cret\0").written == b"R\0\0\0\x08\0\0\0\3"


def test_a_cleartext_password_is_not_even_asked_for_outside_tls() -> None:
    stream = ScriptedStream(encode.password_message(b"s3cret"))
    with pytest.raises(AuthenticationError, match="only inside TLS") as caught:
        run(authenticate_client_cleartext(stream, "ann", judged_by(lambda _: True)))
    assert stream.written == b""
    assert len(stream.input) == 12
    assert "sslmode=require" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        (encode.password_message(b"wrong"), AuthenticationError, 'authentication failed for user "ann"'),
        (encode.password_message(b""), AuthenticationError, "empty password returned by client"),
        (b"p\0\0\0\x0as3cret", ClientProtocolError, "invalid string in message"),
        (b"p\0\0\0\x0cs3cret\0x", ClientProtocolError, "invalid password packet size"),
        (b"p\0\0\0\4", ClientProtocolError, "invalid string in message"),
        (b"Q\0\0\0\x0bs3cret\0", ClientProtocolError, "expected password response, got message type 81"),
        (b"p\0\1\0\4", ClientProtocolError, "invalid message length"),
    ],
)
def test_anything_but_the_password_is_refused(message: bytes, kind: type[ProxyError], text: str) -> None:
    with pytest.raises(kind, match=text):
        cleartext(message)


def test_a_long_token_fits_into_a_password_message() -> None:
    token = b"t" * 65_000
    stream = ScriptedStream(encode.password_message(token), secure=True)
    run(authenticate_client_cleartext(stream, "ann", judged_by(lambda password: password == token)))


# -- greeting ------------------------------------------------------------------------------------------------


def test_the_greeting_has_these_bytes() -> None:
    assert greeting({b"a": b"1", b"b": b""}, 7, b"keys") == (
        b"R\0\0\0\x08\0\0\0\0S\0\0\0\x08a\0001\0S\0\0\0\x07b\0\0K\0\0\0\x0c\0\0\0\7keysZ\0\0\0\x05I"
    )
