"""Numbers of PostgreSQL's protocol 3.

Message types and codes are those of src/include/libpq/protocol.h and pqcomm.h in PostgreSQL 18, described in
the chapter "Message Formats" of its documentation. A type is an int, as indexing bytes gives it.
"""

from __future__ import annotations

from typing import Final

# -- from the client -----------------------------------------------------------------------------------------

BIND: Final = ord("B")
CLOSE: Final = ord("C")
COPY_FAIL: Final = ord("f")
DESCRIBE: Final = ord("D")
EXECUTE: Final = ord("E")
FLUSH: Final = ord("H")
FUNCTION_CALL: Final = ord("F")
PARSE: Final = ord("P")
PASSWORD: Final = ord("p")  # also SASLInitialResponse, SASLResponse and GSSResponse
QUERY: Final = ord("Q")
SYNC: Final = ord("S")
TERMINATE: Final = ord("X")

# -- from both -----------------------------------------------------------------------------------------------

COPY_DATA: Final = ord("d")
COPY_DONE: Final = ord("c")

# -- from the server -----------------------------------------------------------------------------------------

AUTHENTICATION: Final = ord("R")
BACKEND_KEY_DATA: Final = ord("K")
BIND_COMPLETE: Final = ord("2")
CLOSE_COMPLETE: Final = ord("3")
COMMAND_COMPLETE: Final = ord("C")
COPY_IN_RESPONSE: Final = ord("G")
COPY_OUT_RESPONSE: Final = ord("H")
DATA_ROW: Final = ord("D")
EMPTY_QUERY_RESPONSE: Final = ord("I")
ERROR_RESPONSE: Final = ord("E")
FUNCTION_CALL_RESPONSE: Final = ord("V")
NEGOTIATE_PROTOCOL_VERSION: Final = ord("v")
NO_DATA: Final = ord("n")
NOTICE_RESPONSE: Final = ord("N")
NOTIFICATION_RESPONSE: Final = ord("A")
PARAMETER_DESCRIPTION: Final = ord("t")
PARAMETER_STATUS: Final = ord("S")
PARSE_COMPLETE: Final = ord("1")
PORTAL_SUSPENDED: Final = ord("s")
READY_FOR_QUERY: Final = ord("Z")
ROW_DESCRIPTION: Final = ord("T")

# -- transaction status in ReadyForQuery ---------------------------------------------------------------------

IDLE: Final = ord("I")
IN_TRANSACTION: Final = ord("T")
IN_FAILED_TRANSACTION: Final = ord("E")

# -- codes in Authentication messages ------------------------------------------------------------------------

AUTH_OK: Final = 0
AUTH_CLEARTEXT: Final = 3
AUTH_MD5: Final = 5
AUTH_SASL: Final = 10
AUTH_SASL_CONTINUE: Final = 11
AUTH_SASL_FINAL: Final = 12
AUTH_UNSUPPORTED: Final = {
    2: "Kerberos V5",
    4: "crypt",
    6: "SCM credentials",
    7: "GSSAPI",
    8: "GSSAPI",
    9: "SSPI",
}
"""Methods that a server may ask for and that the proxy does not speak, by their code."""

# -- the first packet ----------------------------------------------------------------------------------------

PROTOCOL_3_0: Final = 3 << 16
CANCEL_REQUEST: Final = 80877102  # 1234 << 16 | 5678; the two below follow it
SSL_REQUEST: Final = 80877103
GSSENC_REQUEST: Final = 80877104

# -- limits --------------------------------------------------------------------------------------------------

MAX_STARTUP_PACKET: Final = 10_000
"""Bytes of the first packet without its length word (MAX_STARTUP_PACKET_LENGTH in pqcomm.h)."""

MAX_STARTUP_PARAMETERS: Final = 200
"""Settings in one first packet, and as many in its `options`: ours, PostgreSQL has the packet's size only."""

MAX_CANCEL_KEY: Final = 256
"""Bytes of a cancel key (MAX_CANCEL_KEY_LENGTH in procsignal.h; protocol 3.2 allows as many)."""

MAX_NAME: Final = 63
"""Bytes of a user's or a database's name (NAMEDATALEN - 1 in pg_config_manual.h)."""

MAX_PASSWORD_MESSAGE: Final = 65_535
"""Bytes of a password message (PG_MAX_AUTH_TOKEN_LENGTH in auth.h): a token of the cloud's may be long."""

MAX_SASL_MESSAGE: Final = 1024
"""Bytes of one message in a SCRAM exchange (PG_MAX_SASL_MESSAGE_LENGTH in sasl.h)."""

MAX_LOGIN_MESSAGE: Final = 65_536
"""Bytes of any message that a server sends before its first ReadyForQuery: ours, libpq stops at 30,000."""

MAX_LOGIN_MESSAGES: Final = 1000
"""Messages that a server sends before its first ReadyForQuery: ours, a real one sends about twenty."""
