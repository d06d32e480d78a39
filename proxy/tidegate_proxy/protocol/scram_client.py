"""SCRAM-SHA-256 as PostgreSQL speaks it: the client's side, by a password or by the key that another login has shown.

What a password comes to with a server's salt is kept: every server connection of a role would cost those thousands of
hashes again, and a pool opens many at once (RFC 5802, section 5.1, has clients cache it).
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Sequence

from tidegate_proxy.errors import AuthenticationError, ServerProtocolError
from tidegate_proxy.protocol.scram import (
    BINDING_TYPE,
    MAX_ITERATIONS,
    MIN_ITERATIONS,
    SCRAM_SHA_256,
    SCRAM_SHA_256_PLUS,
    ScramKeys,
    keys_from,
)

_SERVER_FIRST = re.compile(
    r"r=(?P<nonce>[!-+\--~]+),s=(?P<salt>[A-Za-z0-9+/]+={0,2}),i=(?P<iterations>[1-9][0-9]{0,8})"
)
_MOST_KEPT = 1024
_DIGEST_KEY = secrets.token_bytes(32)
_kept: OrderedDict[bytes, ScramKeys] = OrderedDict()


def _known_keys(password: str, salt: bytes, iterations: int) -> ScramKeys:
    # Found again by a digest: the password itself would stay here when it has long been rotated.
    what = b"%d:%d:%b%b" % (iterations, len(salt), salt, password.encode())
    found_by = hmac.digest(_DIGEST_KEY, what, "sha256")
    keys = _kept.get(found_by)
    if keys is None:
        keys = _kept[found_by] = keys_from(password, salt, iterations)
        if len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
    else:
        _kept.move_to_end(found_by)
    return keys


def choose_mechanism(offered: Sequence[str], channel_binding: bytes | None) -> str:
    """The best of a server's SASL mechanisms that we speak.

    Raises: AuthenticationError when there is none.
    """
    if channel_binding is not None and SCRAM_SHA_256_PLUS in offered:
        return SCRAM_SHA_256_PLUS
    if SCRAM_SHA_256 in offered:
        return SCRAM_SHA_256
    raise AuthenticationError(
        "none of the target server's SASL authentication mechanisms are supported",
        sqlstate="28000",
        detail=f"The server offers: {', '.join(offered)[:200] or 'none'}.",
        hint="Let the proxy log in by scram-sha-256 in the server's pg_hba.conf.",
    )


class ScramClientExchange:
    """One login, seen from the client.

    Parameters: `secret`, the password, or keys, for which the server must keep the very verifier that they were checked
    against; `mechanisms` that the server offers; `channel_binding`, the `tls-server-end-point` data inside
    TLS, else None.
    Raises: AuthenticationError when the server offers no mechanism that we speak.
    """

    def __init__(self, secret: str | ScramKeys, mechanisms: Sequence[str], channel_binding: bytes | None) -> None:
        self._secret = secret
        self._mechanism = choose_mechanism(mechanisms, channel_binding)
        if self._mechanism == SCRAM_SHA_256_PLUS and channel_binding is not None:
            self._flag, self._binding = f"p={BINDING_TYPE},,", channel_binding
        else:
            # "y" says that we could bind: a server that can too will then know that somebody has hidden it.
            self._flag, self._binding = "n,," if channel_binding is None else "y,,", b""
        self._nonce = base64.b64encode(secrets.token_bytes(18)).decode()
        # What the server is to prove that it knows too.
        self._server_key = b""
        self._signed = b""

    def first(self) -> tuple[str, bytes]:
        """The chosen mechanism and the client's first message."""
        return self._mechanism, f"{self._flag}n=*,r={self._nonce}".encode()

    def response(self, server_first: bytes) -> bytes:
        """The client's final message, with the proof.

        Raises: ServerProtocolError, also for a count of iterations below RFC 7677's minimum, which would hand a false
        server something easy to guess passwords from, or so high that it would stall the proxy; AuthenticationError
        when the server keeps another verifier than that of the keys.
        """
        text = _text(server_first)
        match = _SERVER_FIRST.fullmatch(text)
        if match is None or not match["nonce"].startswith(self._nonce) or match["nonce"] == self._nonce:
            raise _malformed("The server-first-message does not have the form of RFC 5802.")
        try:
            salt = base64.b64decode(match["salt"], validate=True)
        except ValueError:
            raise _malformed("The salt is not base64.") from None
        keys = self._keys(salt, int(match["iterations"]))
        self._server_key = keys.verifier.server_key
        channel = base64.b64encode(self._flag.encode() + self._binding).decode()
        without_proof = f"c={channel},r={match['nonce']}"
        self._signed = f"n=*,r={self._nonce},{text},{without_proof}".encode()
        signature = hmac.digest(keys.verifier.stored_key, self._signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(keys.client_key, signature, strict=True))
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def _keys(self, salt: bytes, iterations: int) -> ScramKeys:
        if isinstance(self._secret, ScramKeys):
            verifier = self._secret.verifier
            if (salt, iterations) != (verifier.salt, verifier.iterations):
                raise AuthenticationError(
                    "the target server keeps another SCRAM verifier than the one that the client was checked against, "
                    "so the client's key does not fit",
                    sqlstate="28000",
                    hint="Give the proxy the verifier as the server has it, or a password or secret of its own for the "
                    "server.",
                )
            return self._secret
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise ServerProtocolError(
                f"the target server's SCRAM iteration count is not from {MIN_ITERATIONS} to {MAX_ITERATIONS}",
                hint="Correct scram_iterations on the server, then set the password again.",
            )
        try:
            return _known_keys(self._secret, salt, iterations)
        except UnicodeEncodeError:
            # Its text shows a part of the password.
            raise AuthenticationError(
                "the password for the target server has a character that is no character of Unicode",
                sqlstate="28000",
                hint="Set another password.",
            ) from None
        except ValueError as error:
            raise _malformed(f"It {error}.") from None

    def verify(self, server_final: bytes) -> None:
        """Check that the server keeps the verifier too. Raises: ServerProtocolError."""
        expected = b"v=" + base64.b64encode(hmac.digest(self._server_key, self._signed, "sha256"))
        if not hmac.compare_digest(server_final, expected):
            raise ServerProtocolError(
                "the target server did not prove that it knows the password",
                hint="Check that the address is the right server's.",
            )


def _malformed(detail: str) -> ServerProtocolError:
    """The error for a SCRAM message that no server sends."""
    return ServerProtocolError("malformed SCRAM message from the target server", detail=detail)


def _text(data: bytes) -> str:
    """A SCRAM message as text. Raises: ServerProtocolError."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _malformed("The message is not UTF-8.") from None
