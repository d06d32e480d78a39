"""A client's first packet: what it asks for, and PostgreSQL's own answer where it is malformed."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from tidegate_proxy.errors import ClientProtocolError
from tidegate_proxy.protocol import wire
from tidegate_proxy.protocol.options import parse_options

_int32 = struct.Struct("!i")
_int16_pair = struct.Struct("!HH")
_TRUE = {"1", "t", "tr", "tru", "true", "y", "ye", "yes", "on"}
_FALSE = {"0", "f", "fa", "fal", "fals", "false", "n", "no", "of", "off"}


@dataclass(frozen=True, slots=True)
class SSLRequest:
    """May we speak TLS?"""


@dataclass(frozen=True, slots=True)
class GSSENCRequest:
    """May we encrypt by GSSAPI?"""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Cancel what the connection with this BackendKeyData runs."""

    pid: int
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class StartupMessage:
    """A client wants a session.

    `parameters` are the settings named in the packet itself and `options` those in its `options` string;
    where both name one, PostgreSQL lets `parameters` win. Both keep the order in which they take effect.
    """

    major: int
    minor: int
    user: str
    database: str
    parameters: dict[str, str]
    options: dict[str, str]
    unsupported_protocol_options: list[str]
    replication: bool

    @cached_property
    def session(self) -> dict[str, str]:
        """The parameters that the session begins with, under lower-case names. Shared by all clients that send the
        same: not to be changed."""
        return {name.lower(): value for name, value in (self.options | self.parameters).items()}


def parse_startup(body: bytes) -> SSLRequest | GSSENCRequest | CancelRequest | StartupMessage:
    """Read the first packet.

    Parameters: `body`, the packet without its length word.
    Raises: ClientProtocolError, in PostgreSQL's words where it has some.
    """
    if not 4 <= len(body) <= wire.MAX_STARTUP_PACKET:
        raise ClientProtocolError("invalid length of startup packet")
    (code,) = _int32.unpack_from(body)
    if code == wire.CANCEL_REQUEST:
        return _parse_cancel(body)
    if code in (wire.SSL_REQUEST, wire.GSSENC_REQUEST):
        if len(body) != 4:
            raise ClientProtocolError("invalid length of startup packet")
        return SSLRequest() if code == wire.SSL_REQUEST else GSSENCRequest()
    major, minor = _int16_pair.unpack_from(body)
    if major != 3:
        raise ClientProtocolError(
            f"unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.0", sqlstate="0A000"
        )
    return _parse_session(major, minor, body)


def _parse_cancel(body: bytes) -> CancelRequest:
    if not 8 < len(body) <= 8 + wire.MAX_CANCEL_KEY:
        raise ClientProtocolError("invalid length of cancel request packet")
    return CancelRequest(pid=_int32.unpack_from(body, 4)[0], key=body[8:])


@lru_cache(maxsize=256)
def _parse_session(major: int, minor: int, body: bytes) -> StartupMessage:
    # The clients of a storm have all the same to say.
    user = database = ""
    options: dict[str, str] = {}
    parameters: dict[str, str] = {}
    unsupported: dict[str, None] = {}
    replication = False
    for raw_name, raw_value in _pairs(body):
        name = _text(raw_name)
        if name == "application_name":
            value = raw_value.decode("ascii", errors="backslashreplace")  # as PostgreSQL cleans it
        else:
            value = _text(raw_value)
        match name:
            case "user":
                user = value
            case "database":
                database = value
            case "options":
                options = parse_options(value)
            case "replication":
                replication = _parse_replication(value)
            case _ if name.startswith("_pq_."):
                unsupported[name] = None
            case _:
                parameters.pop(name, None)  # the last one wins and takes its place in the order
                parameters[name] = value
    if not user:
        raise ClientProtocolError("no PostgreSQL user name specified in startup packet", sqlstate="28000")
    return StartupMessage(
        major=major,
        minor=minor,
        user=_as_name(user),
        database=_as_name(database or user),
        parameters=parameters,
        options=options,
        unsupported_protocol_options=list(unsupported),
        replication=replication,
    )


def _pairs(body: bytes) -> list[tuple[bytes, bytes]]:
    parts = body[4:].split(b"\0")
    # A well-formed list ends with the last value's zero byte and the terminator: two empty parts, and none
    # before them stands where a name is due.
    names, values = parts[:-2:2], parts[1:-2:2]
    if len(parts) < 2 or parts[-2:] != [b"", b""] or len(names) != len(values) or b"" in names:
        raise ClientProtocolError("invalid startup packet layout: expected terminator as last byte")
    if len(names) > wire.MAX_STARTUP_PARAMETERS:
        raise ClientProtocolError(
            f"too many parameters in startup packet: at most {wire.MAX_STARTUP_PARAMETERS} are allowed",
            sqlstate="54000",
        )
    return list(zip(names, values, strict=True))


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ClientProtocolError(
            'invalid byte sequence for encoding "UTF8" in startup packet: '
            + " ".join(f"0x{byte:02x}" for byte in data[error.start : error.end]),
            sqlstate="22021",
            hint="Names and values in the startup packet must be encoded in UTF-8.",
        ) from None


def _as_name(text: str) -> str:
    # CREATE ROLE and CREATE DATABASE cut an overlong name at a whole character, so this is the name they
    # stored.
    return text.encode()[: wire.MAX_NAME].decode(errors="ignore")


def _parse_replication(value: str) -> bool:
    word = value.lower()
    # PostgreSQL also takes a beginning of a boolean word, where it belongs to one of them only: not "o".
    if value == "database" or word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ClientProtocolError(
        f'invalid value for parameter "replication": "{value}"',
        sqlstate="22023",
        hint='Valid values are: "false", 0, "true", 1, "database".',
    )
