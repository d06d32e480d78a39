"""Messages as bytes: pure functions, one per message that the proxy itself sends."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from tidegate_proxy.errors import ProxyError
from tidegate_proxy.protocol import wire

_header = struct.Struct("!Bi").pack
_int16 = struct.Struct("!h").pack
_int32 = struct.Struct("!i").pack

_column = struct.Struct("!ihihih").pack


def message(kind: int, body: bytes = b"") -> bytes:
    """A message of type `kind` (see `wire`): type byte, length word that counts itself, body."""
    return _header(kind, len(body) + 4) + body


def cstring(text: str | bytes) -> bytes:
    """A string as the protocol sends it: UTF-8, ended by a zero byte.

    Raises: ValueError for a zero byte within, which would let the rest be read as something else.
    """
    data = text.encode() if isinstance(text, str) else text
    if b"\0" in data:
        raise ValueError("a string in a PostgreSQL message can't contain a zero byte")
    return data + b"\0"


# -- as a server ---------------------------------------------------------------------------------------------


def error_response(error: ProxyError, *, fatal: bool) -> bytes:
    """ErrorResponse; `fatal` says that the connection ends with it."""
    severity = "FATAL" if fatal else "ERROR"
    return message(wire.ERROR_RESPONSE, _fields(severity, error.sqlstate, error.message, error.detail, error.hint))


def warning(text: str) -> bytes:
    """NoticeResponse: what whoever asked should know besides the answer."""
    return message(wire.NOTICE_RESPONSE, _fields("WARNING", "01000", text, None, None))


def _fields(severity: str, sqlstate: str, text: str, detail: str | None, hint: str | None) -> bytes:
    # Texts may quote what a client or a server sent, so here nothing is refused: the error must get out.
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": text, "D": detail, "H": hint}
    return (
        b"".join(
            key.encode() + value.replace("\0", "").encode(errors="replace") + b"\0"
            for key, value in fields.items()
            if value
        )
        + b"\0"
    )


def ready_for_query(status: int) -> bytes:
    """ReadyForQuery; `status` is wire.IDLE, wire.IN_TRANSACTION or wire.IN_FAILED_TRANSACTION."""
    return message(wire.READY_FOR_QUERY, bytes((status,)))


def row_description(columns: Sequence[tuple[str, int]]) -> bytes:
    """RowDescription of columns that belong to no table, in text format: name and type's object identifier of each."""
    # Table 0, column 0, the type, any length, no modifier, text format.
    fields = b"".join(cstring(name) + _column(0, 0, kind, -1, -1, 0) for name, kind in columns)
    return message(wire.ROW_DESCRIPTION, _int16(len(columns)) + fields)


def data_row(values: Sequence[str | None]) -> bytes:
    """DataRow of texts; None is NULL."""
    parts = [_int16(len(values))]
    for value in values:
        data = None if value is None else value.encode()
        parts.append(_int32(-1) if data is None else _int32(len(data)) + data)
    return message(wire.DATA_ROW, b"".join(parts))


def command_complete(tag: str) -> bytes:
    """CommandComplete."""
    return message(wire.COMMAND_COMPLETE, cstring(tag))


def parameter_status(name: bytes, value: bytes) -> bytes:
    """ParameterStatus. Bytes, because a value is in the client's encoding."""
    return message(wire.PARAMETER_STATUS, cstring(name) + cstring(value))


def backend_key_data(pid: int, key: bytes) -> bytes:
    """BackendKeyData: what the client needs to cancel. Protocol 3.0 has keys of exactly four bytes."""
    return message(wire.BACKEND_KEY_DATA, _int32(pid) + key)


def authentication_ok() -> bytes:
    """AuthenticationOk."""
    return message(wire.AUTHENTICATION, _int32(wire.AUTH_OK))


def authentication_cleartext() -> bytes:
    """AuthenticationCleartextPassword."""
    return message(wire.AUTHENTICATION, _int32(wire.AUTH_CLEARTEXT))


def authentication_sasl(mechanisms: Sequence[str]) -> bytes:
    """AuthenticationSASL: the mechanisms in order of preference."""
    names = b"".join(cstring(name) for name in mechanisms)
    return message(wire.AUTHENTICATION, _int32(wire.AUTH_SASL) + names + b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    """AuthenticationSASLContinue."""
    return message(wire.AUTHENTICATION, _int32(wire.AUTH_SASL_CONTINUE) + data)


def authentication_sasl_final(data: bytes) -> bytes:
    """AuthenticationSASLFinal."""
    return message(wire.AUTHENTICATION, _int32(wire.AUTH_SASL_FINAL) + data)


def negotiate_protocol_version(unsupported: Sequence[str]) -> bytes:
    """NegotiateProtocolVersion: we speak protocol 3.0 and do not know these `_pq_.` options."""
    names = b"".join(cstring(name) for name in unsupported)
    body = _int32(wire.PROTOCOL_3_0) + _int32(len(unsupported)) + names
    return message(wire.NEGOTIATE_PROTOCOL_VERSION, body)


# -- as a client ---------------------------------------------------------------------------------------------


def startup_message(parameters: Mapping[str, str]) -> bytes:
    """StartupMessage of protocol 3.0; `parameters` include `user` and `database`.

    Raises: ValueError for a name or a value with a zero byte, or an empty name.
    """
    if "" in parameters:
        raise ValueError("a start-up parameter needs a name")
    pairs = b"".join(cstring(name) + cstring(value) for name, value in parameters.items())
    return _packet(wire.PROTOCOL_3_0, pairs + b"\0")


def ssl_request() -> bytes:
    """SSLRequest."""
    return _packet(wire.SSL_REQUEST)


def cancel_request(pid: int, key: bytes) -> bytes:
    """CancelRequest, sent on a connection of its own."""
    return _packet(wire.CANCEL_REQUEST, _int32(pid) + key)


def _packet(code: int, body: bytes = b"") -> bytes:
    return _int32(len(body) + 8) + _int32(code) + body


def password_message(password: bytes) -> bytes:
    """PasswordMessage, for a cleartext password or an MD5 hash.

    Raises: ValueError for a password with a zero byte.
    """
    return message(wire.PASSWORD, cstring(password))


def sasl_initial_response(mechanism: str, data: bytes) -> bytes:
    """SASLInitialResponse."""
    return message(wire.PASSWORD, cstring(mechanism) + _int32(len(data)) + data)


def sasl_response(data: bytes) -> bytes:
    """SASLResponse."""
    return message(wire.PASSWORD, data)


def query(sql: str | bytes) -> bytes:
    """Query, the simple protocol.

    Raises: ValueError for a zero byte in the text.
    """
    return message(wire.QUERY, cstring(sql))


def parse(name: bytes, sql: bytes, oids: bytes) -> bytes:
    """Parse. `oids` is the message's end as on the wire: an int16 count, then an int32 per parameter."""
    return message(wire.PARSE, cstring(name) + cstring(sql) + oids)


def close_statement(name: bytes) -> bytes:
    """Close of a prepared statement."""
    return message(wire.CLOSE, b"S" + cstring(name))


def sync() -> bytes:
    """Sync."""
    return message(wire.SYNC)


def flush() -> bytes:
    """Flush."""
    return message(wire.FLUSH)


def terminate() -> bytes:
    """Terminate."""
    return message(wire.TERMINATE)


def copy_fail(reason: str | bytes) -> bytes:
    """CopyFail; the server's error quotes `reason`.

    Raises: ValueError for a zero byte in the reason.
    """
    return message(wire.COPY_FAIL, cstring(reason))
