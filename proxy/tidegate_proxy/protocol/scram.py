"""SCRAM-SHA-256 as PostgreSQL speaks it: the server's side. The client's side is in `scram_client`.

It is what a storm of cold clients costs, 500 logins at once. With stored keys RFC 5802 leaves each side just two HMACs,
a hash and a comparison; a library's checks of characters cost several times as much.

PostgreSQL departs from RFC 5802 in two ways:
- The user is the one in the startup packet. The name in the exchange is ignored, and libpq leaves it empty.
- A password that SASLprep refuses is used as it is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Self

from scramp import ScramException
from scramp.utils import saslprep

from tidegate_proxy.errors import AuthenticationError, ClientProtocolError

SCRAM_SHA_256: Final = "SCRAM-SHA-256"
SCRAM_SHA_256_PLUS: Final = "SCRAM-SHA-256-PLUS"

MIN_ITERATIONS: Final = 4096
"""RFC 7677's minimum; also PostgreSQL's default."""

MAX_ITERATIONS: Final = 1_000_000
"""About a quarter of a second of CPU: a server must not be able to stall the proxy with one message."""

_MIN_SALT = 12  # bytes; PostgreSQL's own have 16
_SALT = 16
BINDING_TYPE: Final = "tls-server-end-point"
_VERIFIER = re.compile(r"SCRAM-SHA-256\$([0-9]{1,7}):([^$:]+)\$([^$:]+):([^$:]+)")
_BASE64 = r"[A-Za-z0-9+/]+={0,2}"
_CLIENT_FIRST = re.compile(
    r"(?P<header>(?P<flag>n|y|p=[^,]*),(?P<authzid>[^,]*),)(?P<bare>n=[^,]*,r=(?P<nonce>[!-+\--~]+)(?:,(?![mr]=)[a-zA-Z]=[^,]+)*)"
)
_CLIENT_FINAL = re.compile(
    rf"(?P<signed>c=(?P<binding>{_BASE64}),r=(?P<nonce>[!-+\--~]+)(?:,(?![mp]=)[a-zA-Z]=[^,]+)*),p=(?P<proof>{_BASE64})"
)
PROCESS_SECRET: Final = secrets.token_bytes(32)
"""What the salts of unknown users are made from where nothing is configured."""


def md5_password(user: str, password: str, salt: bytes) -> bytes:
    """The answer to AuthenticationMD5Password with this four-byte `salt`."""
    inner = hashlib.md5(password.encode() + user.encode(), usedforsecurity=False).hexdigest()
    return b"md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode()


def _prepared(password: str) -> bytes:
    if password.isascii():
        return password.encode()
    try:
        return (saslprep(password) or password).encode()
    except ScramException:
        return password.encode()


@dataclass(frozen=True, slots=True)
class ScramVerifier:
    """What a server keeps instead of a password: enough to check it, not enough to log in with."""

    iterations: int
    salt: bytes = field(repr=False)
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @staticmethod
    def from_password(password: str, iterations: int = MIN_ITERATIONS, salt: bytes | None = None) -> ScramVerifier:
        """Derive a verifier, at the price of `iterations` hashes; the salt is random by default.

        Raises: ValueError for iterations or a salt out of bounds.
        """
        return keys_from(password, secrets.token_bytes(_SALT) if salt is None else salt, iterations).verifier

    def matches(self, password: bytes) -> bool:
        """Whether this is the password; takes as long as `from_password`."""
        # What is not UTF-8 can be nobody's password, and is treated like any other wrong one.
        text = password.decode(errors="replace")
        derived = ScramVerifier.from_password(text, self.iterations, self.salt)
        return hmac.compare_digest(derived.stored_key, self.stored_key)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the form of `pg_authid.rolpassword`: `SCRAM-SHA-256$iterations:salt$stored:server`.

        Raises: ValueError that names the faulty part, never its value.
        """
        match = _VERIFIER.fullmatch(text)
        if match is None:
            raise ValueError(
                "must have the form SCRAM-SHA-256$iterations:salt$stored:server, as in pg_authid.rolpassword"
            )
        try:
            salt, stored_key, server_key = (base64.b64decode(part, validate=True) for part in match.groups()[1:])
        except ValueError:
            raise ValueError("must have salt and keys in base64") from None
        _check_bounds(int(match[1]), salt)
        if len(stored_key) != 32 or len(server_key) != 32:
            raise ValueError("must have two keys of 32 bytes each")
        return cls(int(match[1]), salt, stored_key, server_key)

    def __str__(self) -> str:
        salt, stored, server = (
            base64.b64encode(part).decode() for part in (self.salt, self.stored_key, self.server_key)
        )
        return f"{SCRAM_SHA_256}${self.iterations}:{salt}${stored}:{server}"


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """What a server learns from a client that logs in: enough to log in as that user, wherever the same verifier is
    kept. As precious as the password."""

    verifier: ScramVerifier
    client_key: bytes = field(repr=False)


def keys_from(password: str, salt: bytes, iterations: int) -> ScramKeys:
    """Derive the keys of a password, at the price of `iterations` hashes.

    Raises: ValueError for iterations or a salt out of bounds.
    """
    _check_bounds(iterations, salt)
    salted = hashlib.pbkdf2_hmac("sha256", _prepared(password), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return ScramKeys(ScramVerifier(iterations, salt, hashlib.sha256(client_key).digest(), server_key), client_key)


def _check_bounds(iterations: int, salt: bytes) -> None:
    if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise ValueError(f"must have from {MIN_ITERATIONS} to {MAX_ITERATIONS} iterations")
    if len(salt) < _MIN_SALT:
        raise ValueError(f"must have a salt of at least {_MIN_SALT} bytes")


def salt_for(user: str, secret: bytes) -> bytes:
    """A user's salt where nothing else decides it: the same on every attempt, and another for every user and secret."""
    return hmac.digest(secret, b"salt:" + user.encode(), "sha256")[:_SALT]


@lru_cache(maxsize=1024)
def mock_verifier(user: str, secret: bytes, iterations: int = MIN_ITERATIONS) -> ScramVerifier:
    """What stands in for the verifier of a user who does not exist, with keys for which nobody knows a password."""
    stored_key, server_key = (
        hmac.digest(secret, purpose + user.encode(), "sha256") for purpose in (b"stored:", b"server:")
    )
    return ScramVerifier(iterations, salt_for(user, secret), stored_key, server_key)


def _server_nonce() -> str:
    # As many random bytes as PostgreSQL's own.
    return _base64(os.urandom(18)).decode()


class ScramServerExchange:
    """One login, seen from the server.

    Parameters
    - `user`: the user that the startup packet names.
    - `verifier`: the user's, or None for an unknown user: the exchange then runs all the same and fails at
      its end, so that nobody learns which users exist.
    - `channel_binding`: the `tls-server-end-point` data inside TLS, else None.
    - `mock_secret`: what unknown users' salts are made from. Processes that serve the same address must share
      it, or an unknown user shows by a salt that changes.
    """

    def __init__(
        self,
        user: str,
        verifier: ScramVerifier | None,
        channel_binding: bytes | None = None,
        *,
        mock_secret: bytes = PROCESS_SECRET,
    ) -> None:
        self._user = user
        self._binding = channel_binding
        self._verifier = verifier or mock_verifier(user, mock_secret)
        self.mechanisms = [SCRAM_SHA_256] if channel_binding is None else [SCRAM_SHA_256_PLUS, SCRAM_SHA_256]
        # What the client is to send back, and what both sides sign.
        self._header = b""
        self._nonce = ""
        self._signed = ""
        self._proof = b""
        self.keys: ScramKeys | None = None
        """What the client has shown by its proof, once it was right."""

    def first(self, mechanism: str, client_first: bytes) -> bytes:
        """Take the mechanism and the client's first message; returns the server's first message.

        Raises: ClientProtocolError; AuthenticationError where the client was misled about channel binding.
        """
        if mechanism not in self.mechanisms:
            raise ClientProtocolError("client selected an invalid SASL authentication mechanism")
        match = _CLIENT_FIRST.fullmatch(_client_text(client_first))
        if match is None:
            raise _malformed("The client-first-message does not have the form of RFC 5802.")
        self._check_header(match["flag"], match["authzid"], plus=mechanism == SCRAM_SHA_256_PLUS)
        self._header = match["header"].encode()
        if mechanism == SCRAM_SHA_256_PLUS and self._binding is not None:
            self._header += self._binding
        self._nonce = match["nonce"] + _server_nonce()
        salt = _base64(self._verifier.salt).decode()
        answer = f"r={self._nonce},s={salt},i={self._verifier.iterations}"
        self._signed = f"{match['bare']},{answer}"
        return answer.encode()

    def _check_header(self, flag: str, authzid: str, *, plus: bool) -> None:
        if plus and not flag.startswith("p="):
            raise _malformed(
                "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data."
            )
        if plus and flag != f"p={BINDING_TYPE}":
            raise _malformed("The client wants a type of channel binding that is not supported.")
        if not plus and flag.startswith("p="):
            raise _malformed(
                "The client selected SCRAM-SHA-256 without channel binding, "
                "but the SCRAM message includes channel binding data."
            )
        if flag == "y" and self._binding is not None:
            # Somebody between us took SCRAM-SHA-256-PLUS off our list.
            raise AuthenticationError(
                "SCRAM channel binding negotiation error",
                sqlstate="28000",
                detail="The client supports SCRAM channel binding but thinks the server does not. "
                "However, this server does support channel binding.",
            )
        if authzid:
            raise ClientProtocolError("client uses authorization identity, but it is not supported", sqlstate="0A000")

    def final(self, client_final: bytes) -> bytes:
        """Take the client's final message; returns the server's final message, which proves the server.

        Raises: AuthenticationError for a wrong password, an unknown user or another TLS connection's channel
        binding; ClientProtocolError.
        """
        self.read_proof(client_final)
        return self.judge(self._verifier)

    def read_proof(self, client_final: bytes) -> None:
        """Take the client's final message, for `judge`.

        Raises: AuthenticationError for another TLS connection's channel binding; ClientProtocolError.
        """
        match = _CLIENT_FINAL.fullmatch(_client_text(client_final))
        if match is None:
            raise _malformed("The client-final-message does not have the form of RFC 5802.")
        if match["nonce"] != self._nonce:
            raise _malformed("The nonce is not the one of this exchange.")
        try:
            binding = binascii.a2b_base64(match["binding"], strict_mode=True)
            proof = binascii.a2b_base64(match["proof"], strict_mode=True)
        except ValueError:
            raise _malformed("The message has malformed base64.") from None
        if not hmac.compare_digest(binding, self._header):
            raise AuthenticationError("SCRAM channel binding check failed", sqlstate="28000")
        if len(proof) != 32:
            raise _malformed("The proof does not have 32 bytes.")
        self._signed = f"{self._signed},{match['signed']}"
        self._proof = proof

    def judge(self, verifier: ScramVerifier) -> bytes:
        """Hold the proof against a verifier; any of the user's may be tried.

        Returns: the server's final message. Raises: AuthenticationError, also for one with another salt than was shown.
        """
        signed = self._signed.encode()
        signature = hmac.digest(verifier.stored_key, signed, "sha256")
        client_key = (int.from_bytes(self._proof, "big") ^ int.from_bytes(signature, "big")).to_bytes(32, "big")
        if not hmac.compare_digest(hashlib.sha256(client_key).digest(), verifier.stored_key):
            raise AuthenticationError.password(self._user)
        self.keys = ScramKeys(verifier, client_key)
        return b"v=" + _base64(hmac.digest(verifier.server_key, signed, "sha256"))


def _base64(data: bytes) -> bytes:
    # What base64.b64encode does in two more calls.
    return binascii.b2a_base64(data, newline=False)


def _malformed(detail: str) -> ClientProtocolError:
    return ClientProtocolError("malformed SCRAM message", detail=detail)


def _client_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _malformed("The message is not UTF-8.") from None
