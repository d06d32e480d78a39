"""Checks of certificate files, so that a bad one is found at start and not by the first client.

Each check raises ValueError with what is wrong and what would be right; the caller says which key it was.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from asn1crypto import pem, x509

PEM_LIMIT = 4_000_000
"""Bytes; bundles of all public authorities have some 250 kB."""


class PassphraseNeededError(Exception):
    """The private key is encrypted."""


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(PEM_LIMIT)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def _certificates(path: Path) -> list[x509.Certificate]:
    content = _read(path)
    try:
        found = [
            x509.Certificate.load(der, strict=True)
            for kind, _, der in pem.unarmor(content, multiple=True)
            if kind == "CERTIFICATE"
        ]
        for certificate in found:
            _ = certificate.not_valid_after  # parsed on first use
    except ValueError:
        found = []
    if not found:
        raise ValueError(f"{path} holds no certificate: it must be a PEM file with -----BEGIN CERTIFICATE-----")
    return found


def check_certificate(path: Path) -> Path:
    """Pass on the path of a PEM file whose first certificate is valid today."""
    certificate = _certificates(path)[0]
    begins: datetime = certificate.not_valid_before
    ends: datetime = certificate.not_valid_after
    if ends < datetime.now(UTC):
        raise ValueError(f"{path} expired on {ends:%Y-%m-%d}: renew the certificate")
    if begins > datetime.now(UTC):
        raise ValueError(f"{path} is not valid before {begins:%Y-%m-%d}")
    return path


def check_authorities(path: Path) -> Path:
    """Pass on the path of a PEM file with certificates of which at least one has not expired."""
    last: datetime = max(certificate.not_valid_after for certificate in _certificates(path))
    if last < datetime.now(UTC):
        raise ValueError(f"{path} holds only expired certificates, the last since {last:%Y-%m-%d}")
    return path


def check_key(certificate: Path, key: Path | None) -> None:
    """Check that the private key belongs to the certificate and needs no passphrase.

    Parameters: `certificate`, a PEM file that `check_certificate` passed; `key`, None for a key in the same
    file.
    """
    path = key or certificate
    if b"PRIVATE KEY-----" not in _read(path):
        if key is None:
            raise ValueError(f"is missing, and {certificate} holds no private key either")
        raise ValueError(f"{path} holds no private key: it must be a PEM file with -----BEGIN PRIVATE KEY-----")
    try:
        load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, key)
    except PassphraseNeededError:
        raise ValueError(f"{path} needs a passphrase: give a key without one") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"{path} is not the key of the certificate in {certificate}") from None
        raise ValueError(f"{path} cannot be used: {error.reason or 'not a valid private key'}") from None


def load_pair(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """`context.load_cert_chain` that never asks the terminal for a passphrase.

    Raises: OSError, ssl.SSLError, PassphraseNeededError.
    """

    def refuse() -> str:
        raise PassphraseNeededError(key or certificate)

    context.load_cert_chain(certificate, key, password=refuse)
