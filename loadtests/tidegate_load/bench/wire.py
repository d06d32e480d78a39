"""The client's side of the protocol, as little of it as a measurement needs, so that the client costs little.

It knows nothing of sockets: bytes go in, bytes to send come out.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import struct
from functools import lru_cache

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
TERMINATE = b"X\0\0\0\4"

_PROTOCOL_3 = 196608
_header = struct.Struct("!ci")


def message(kind: bytes, body: bytes) -> bytes:
    """One message with its header."""
    return _header.pack(kind, len(body) + 4) + body


def query(sql: str) -> bytes:
    """A simple query."""
    return message(b"Q", sql.encode() + b"\0")


@lru_cache(maxsize=64)
def _keys(password: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    # Cached: 500 clients with the same password must not cost 500 times 4096 hashes on the machine that is measured.
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return client_key, hashlib.sha256(client_key).digest()


class WireClient:
    """One session: logs in by SCRAM-SHA-256, or with the password as it is where that is asked for; counts what comes.

    `ready` is True when ReadyForQuery came last; `rows` counts DataRow messages; `copying` is True once the server
    waits for COPY data; `error` is the last error's text, or "".
    """

    __slots__ = ("_buffer", "_first", "_nonce", "_password", "copying", "error", "ready", "rows")

    def __init__(self, password: str) -> None:
        self._password = password
        self._buffer = b""
        self._nonce = ""
        self._first = ""
        self.ready = False
        self.copying = False
        self.rows = 0
        self.error = ""

    @staticmethod
    def startup(user: str, database: str) -> bytes:
        """The StartupMessage."""
        fields = f"user\0{user}\0database\0{database}\0\0".encode()
        return struct.pack("!ii", len(fields) + 8, _PROTOCOL_3) + fields

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the server; returns what is to be sent, mostly nothing."""
        buffer = self._buffer + data if self._buffer else data
        position, answer = 0, b""
        while len(buffer) - position >= 5:
            kind, length = _header.unpack_from(buffer, position)
            end = position + 1 + length
            if len(buffer) < end:
                break
            if kind == b"D":
                self.rows += 1
            elif kind == b"Z":
                self.ready = True
            elif kind == b"G":
                self.copying = True
            elif kind == b"E":
                fields = {part[:1]: part[1:] for part in buffer[position + 5 : end].split(b"\0") if part}
                self.error = fields.get(b"M", b"?").decode(errors="replace")
            elif kind == b"R":
                answer += self._authenticate(buffer[position + 5 : end])
            position = end
        self._buffer = buffer[position:]
        return answer

    def _authenticate(self, body: bytes) -> bytes:
        (code,) = struct.unpack_from("!i", body)
        if code == 10:
            self._nonce = secrets.token_hex(12)
            self._first = f"n=,r={self._nonce}"
            data = b"n,," + self._first.encode()
            return message(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(data)) + data)
        if code == 11:
            return message(b"p", self._final(body[4:].decode()))
        if code == 3:
            return message(b"p", self._password.encode() + b"\0")
        if code not in (0, 12):
            self.error = f"the server wants a login of kind {code}"
        return b""

    def _final(self, server_first: str) -> bytes:
        fields = dict(part.split("=", 1) for part in server_first.split(","))
        client_key, stored_key = _keys(self._password, base64.b64decode(fields["s"]), int(fields["i"]))
        # biws is base64 of "n,,": no channel binding.
        without_proof = f"c=biws,r={fields['r']}"
        signature = hmac.digest(stored_key, f"{self._first},{server_first},{without_proof}".encode(), "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()
