"""The proxy as a server: a client proves who it is and is greeted."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache

from tidegate_proxy.errors import AuthenticationError, ClientProtocolError
from tidegate_proxy.protocol import encode, wire
from tidegate_proxy.protocol.decode import read_cstring
from tidegate_proxy.protocol.scram import ScramKeys, ScramServerExchange, ScramVerifier
from tidegate_proxy.protocol.stream import MessageStream

_int32 = struct.Struct("!i")

ClientSecret = ScramVerifier | None
"""What a client is checked against; None for an unknown user, who goes through the same motions and fails."""


Judge = Callable[[ScramServerExchange, bytes], Awaitable[bytes]]
"""Takes an exchange and the client's final message; returns the server's final message, or raises."""


async def _judge(exchange: ScramServerExchange, client_final: bytes) -> bytes:
    return exchange.final(client_final)


async def authenticate_client(
    stream: MessageStream,
    user: str,
    secret: ClientSecret,
    *,
    judge: Judge = _judge,
) -> ScramKeys | None:
    """Have a client prove by SCRAM-SHA-256 that it is `user`, with channel binding where TLS allows it.

    `greeting` or an error comes next; AuthenticationOk is not sent here.
    Parameters: `judge`, who decides on the client's proof; by default `secret` alone.
    Returns: what the client's proof has shown.
    Raises: AuthenticationError, ClientProtocolError, and what `stream` raises.
    """
    exchange = ScramServerExchange(user, secret, stream.channel_binding)
    stream.write(encode.authentication_sasl(exchange.mechanisms))
    mechanism, data = _initial_response(await _read_sasl(stream))
    if data is None:  # the client wants to be asked for its first message, by an empty challenge
        stream.write(encode.authentication_sasl_continue(b""))
        data = await _read_sasl(stream)
    stream.write(encode.authentication_sasl_continue(exchange.first(mechanism, data)))
    stream.write(encode.authentication_sasl_final(await judge(exchange, await _read_sasl(stream))))
    return exchange.keys


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
    body = await _read_password(stream, wire.MAX_PASSWORD_MESSAGE, "password")
    password, end = read_cstring(body, 0, ClientProtocolError)
    if end != len(body):
        raise ClientProtocolError("invalid password packet size")
    if not password:
        raise AuthenticationError("empty password returned by client")
    return password


def greeting(parameters: Mapping[bytes, bytes], pid: int, key: bytes) -> bytes:
    """What a client gets once it is authenticated, up to and including the first ReadyForQuery.

    Parameters: `parameters`, each reported by a ParameterStatus; `pid` and the four bytes of `key`, for
    BackendKeyData.
    """
    return b"".join(
        (
            encode.authentication_ok(),
            _parameter_statuses(tuple(parameters.items())),
            encode.backend_key_data(pid, key),
            encode.ready_for_query(wire.IDLE),
        )
    )


async def _read_sasl(stream: MessageStream) -> bytes:
    return await _read_password(stream, wire.MAX_SASL_MESSAGE, "SASL")


async def _read_password(stream: MessageStream, limit: int, what: str) -> bytes:
    kind, body = await stream.read_message(limit)
    if kind != wire.PASSWORD:
        raise ClientProtocolError(f"expected {what} response, got message type {kind}")
    return body


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


@lru_cache(maxsize=64)
def _parameter_statuses(parameters: tuple[tuple[bytes, bytes], ...]) -> bytes:
    # The same for nearly all clients of a pool.
    return b"".join(encode.parameter_status(name, value) for name, value in parameters)
