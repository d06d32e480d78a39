"""A SCRAM-SHA-256 login without the password, by the key that another login has shown (RFC 5802, section 3)."""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Sequence

from tidegate_proxy.errors import AuthenticationError, ServerProtocolError
from tidegate_proxy.protocol.scram import (
    BINDING_TYPE,
    SCRAM_SHA_256_PLUS,
    ScramKeys,
    choose_mechanism,
    malformed_by_server,
    server_text,
)

_SERVER_FIRST = re.compile(r"r=(?P<nonce>[!-+\--~]+),s=(?P<salt>[A-Za-z0-9+/]+={0,2}),i=(?P<iterations>[0-9]{1,9})")


class ScramKeysExchange:
    """One login, seen from the client; the server must keep the very verifier that the keys were checked against.

    Parameters: `keys`; `mechanisms` that the server offers; `channel_binding`, the `tls-server-end-point` data inside
    TLS, else None.
    Raises: AuthenticationError when the server offers no mechanism that we speak.
    """

    def __init__(self, keys: ScramKeys, mechanisms: Sequence[str], channel_binding: bytes | None) -> None:
        self._keys = keys
        self._mechanism = choose_mechanism(mechanisms, channel_binding)
        if self._mechanism == SCRAM_SHA_256_PLUS and channel_binding is not None:
            self._flag, self._binding = f"p={BINDING_TYPE},,", channel_binding
        else:
            # "y" says that we could bind: a server that can too will then know that somebody has hidden it.
            self._flag, self._binding = "n,," if channel_binding is None else "y,,", b""
        self._nonce = base64.b64encode(secrets.token_bytes(18)).decode()
        self._signed = b""

    def first(self) -> tuple[str, bytes]:
        """The chosen mechanism and the client's first message."""
        return self._mechanism, f"{self._flag}n=*,r={self._nonce}".encode()

    def response(self, server_first: bytes) -> bytes:
        """The client's final message, with the proof.

        Raises: ServerProtocolError; AuthenticationError when the server keeps another verifier.
        """
        text = server_text(server_first)
        match = _SERVER_FIRST.fullmatch(text)
        if match is None or not match["nonce"].startswith(self._nonce) or match["nonce"] == self._nonce:
            raise malformed_by_server("The server-first-message does not have the form of RFC 5802.")
        try:
            salt = base64.b64decode(match["salt"], validate=True)
        except ValueError:
            raise malformed_by_server("The salt is not base64.") from None
        verifier = self._keys.verifier
        if (salt, int(match["iterations"])) != (verifier.salt, verifier.iterations):
            raise AuthenticationError(
                "the target server keeps another SCRAM verifier than the one that the client was checked against, "
                "so the client's key does not fit",
                sqlstate="28000",
                hint="Give the proxy the verifier as the server has it, or a password or secret of its own for the "
                "server.",
            )
        channel = base64.b64encode(self._flag.encode() + self._binding).decode()
        without_proof = f"c={channel},r={match['nonce']}"
        self._signed = f"n=*,r={self._nonce},{text},{without_proof}".encode()
        signature = hmac.digest(verifier.stored_key, self._signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(self._keys.client_key, signature, strict=True))
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def verify(self, server_final: bytes) -> None:
        """Check that the server keeps the verifier too. Raises: ServerProtocolError."""
        expected = b"v=" + base64.b64encode(hmac.digest(self._keys.verifier.server_key, self._signed, "sha256"))
        if not hmac.compare_digest(server_final, expected):
            raise ServerProtocolError(
                "the target server did not prove that it knows the password",
                hint="Check that the address is the right server's.",
            )
