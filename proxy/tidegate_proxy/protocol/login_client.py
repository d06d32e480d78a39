"""The proxy as a server: a client proves who it is and is greeted."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Mapping

from tidegate_proxy.errors import AuthenticationError, ClientProtocolError
from tidegate_proxy.protocol import encode, wire
from tidegate_proxy.protocol.decode import read_cstring
from tidegate_proxy.protocol.scram import (
    SCRAM_SHA_256,
    SCRAM_SHA_256_PLUS,
    ScramKeys,
    ScramServerExchange,
    ScramVerifier,
)
from tidegate_proxy.protocol.stream import MessageStream

_int32 = struct.Struct("!i")

ClientSecret = ScramVerifier | None
"""What a client is checked against; None for an unknown user, who goes through the same motions and fails."""


Judge = Callable[[ScramServerExchange, bytes], Awaitable[bytes]]
"""Takes an exchange and the client's final message; returns the server's final message, or raises."""


async def _judge(exchange: ScramServerExchange, client_final: bytes) -> bytes:
    return exchange.final(client_final)


class ScramLogin:
    """A client's login by SCRAM-SHA-256, with channel binding where TLS allows it, message by message.

    `offer` is sent first. Then each message that comes is given to `challenge`, until it has been `challenged`; the one
    after that to `proof`.
    Parameters: `user`, `secret`; `channel_binding` as of MessageStream.
    Raises: AuthenticationError, ClientProtocolError.
    """

    __slots__ = ("_asked", "challenged", "exchange")

    def __init__(self, user: str, secret: ClientSecret, channel_binding: bytes | None) -> None:
        self.exchange = ScramServerExchange(user, secret, channel_binding)
        self.challenged = False
        # The mechanism, of a client that wanted to be asked for its first message, by an empty challenge.
        self._asked: str | None = None

    @property
    def offer(self) -> bytes:
        """What the client may choose from."""
        return _OFFERS[len(self.exchange.mechanisms)]

    def challenge(self, kind: int, body: bytes) -> bytes:
        """Take the next message before the proof. Returns: the answer."""
        _check_kind(kind, "SASL")
        if self._asked is None:
            mechanism, data = _initial_response(body)
            if data is None:
                self._asked = mechanism
                return encode.authentication_sasl_continue(b"")
        else:
            mechanism, data = self._asked, body
        answer = encode.authentication_sasl_continue(self.exchange.first(mechanism, data))
        self.challenged = True
        return answer

    def proof(self, kind: int, body: bytes) -> bytes:
        """Returns: the client's final message, for the exchange."""
        _check_kind(kind, "SASL")
        return body


_OFFERS = {
    len(mechanisms): encode.authentication_sasl(mechanisms)
    for mechanisms in ([SCRAM_SHA_256], [SCRAM_SHA_256_PLUS, SCRAM_SHA_256])
}


async def authenticate_client(
    stream: MessageStream,
    user: str,
    secret: ClientSecret,
    *,
    judge: Judge = _judge,
) -> ScramKeys | None:
    """Have a client prove by SCRAM-SHA-256 that it is `user`; see ScramLogin.

    `greeting` or an error comes next; AuthenticationOk is not sent here.
    Parameters: `judge`, who decides on the client's proof; by default `secret` alone.
    Returns: what the client's proof has shown.
    Raises: AuthenticationError, ClientProtocolError, and what `stream` raises.
    """
    login = ScramLogin(user, secret, stream.channel_binding)
    stream.write(login.offer)
    while not login.challenged:
        stream.write(login.challenge(*await stream.read_message(wire.MAX_SASL_MESSAGE)))
    proof = login.proof(*await stream.read_message(wire.MAX_SASL_MESSAGE))
    stream.write(encode.authentication_sasl_final(await judge(login.exchange, proof)))
    return login.exchange.keys


async def authenticate_client_cleartext(
    stream: MessageStream, user: str, check: Callable[[bytes], Awaitable[bool]]
) -> str:
    """Ask a client for its password and let `check` judge it.

    Returns: the password.

    `greeting` or an error comes next; AuthenticationOk is not sent here.
    Raises: AuthenticationError for a wrong password, and outside TLS before anything is asked for;
    ClientProtocolError, and what `stream` raises.
    """
    if not stream.secure:
        raise AuthenticationError(
            f'user "{user}" logs in with a cleartext password, which is allowed only inside TLS',
            sqlstate="28000",
            hint='Connect with "sslmode=require" or stricter.',
        )
    password = await ask_for_password(stream)
    if not await check(password):
        raise AuthenticationError.password(user)
    return password.decode(errors="replace")


async def ask_for_password(stream: MessageStream) -> bytes:
    """Ask a client for its password as it is, which is for the caller to allow only inside TLS.

    Raises: AuthenticationError for an empty one; ClientProtocolError, and what `stream` raises.
    """
    stream.write(encode.authentication_cleartext())
    return read_password(*await stream.read_message(wire.MAX_PASSWORD_MESSAGE))


def read_password(kind: int, body: bytes) -> bytes:
    """The password in a client's answer to AuthenticationCleartextPassword.

    Raises: AuthenticationError for an empty one; ClientProtocolError.
    """
    _check_kind(kind, "password")
    password, end = read_cstring(body, 0, ClientProtocolError)
    if end != len(body):
        raise ClientProtocolError("invalid password packet size")
    if not password:
        raise AuthenticationError("empty password returned by client")
    return password


def greeting(parameters: Mapping[bytes, bytes], pid: int, key: bytes) -> bytes:
    """What a client gets once it is authenticated, up to and including the first ReadyForQuery: `welcome`, and
    `key_and_ready`.
    """
    return welcome(parameters) + key_and_ready(pid, key)


def welcome(parameters: Mapping[bytes, bytes]) -> bytes:
    """AuthenticationOk, and a ParameterStatus for each of these: the same for all clients of a pool and a session."""
    statuses = (encode.parameter_status(name, value) for name, value in parameters.items())
    return b"".join((encode.authentication_ok(), *statuses))


def key_and_ready(pid: int, key: bytes) -> bytes:
    """What follows the `welcome`: BackendKeyData of `pid` and the four bytes of `key`, and the first ReadyForQuery."""
    return encode.backend_key_data(pid, key) + _READY


_READY = encode.ready_for_query(wire.IDLE)


def _check_kind(kind: int, what: str) -> None:
    if kind != wire.PASSWORD:
        raise ClientProtocolError(f"expected {what} response, got message type {kind}")


def _initial_response(body: bytes) -> tuple[str, bytes | None]:
    mechanism, offset = read_cstring(body, 0, ClientProtocolError)
    if len(body) < offset + 4:
        raise ClientProtocolError("insufficient data left in message")
    (length,) = _int32.unpack_from(body, offset)
    data = body[offset + 4 :]
    if length == -1 and not data:
        return mechanism.decode(errors="replace"), None
    if length != len(data):
        raise ClientProtocolError("invalid message format")
    return mechanism.decode(errors="replace"), data
