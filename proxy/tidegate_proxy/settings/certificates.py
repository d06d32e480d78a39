"""Checks of certificate files, so that a bad one is found at start and not by the first client.

Each check raises ValueError with what is wrong and what would be right; the caller says which key it was.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asn1crypto import pem, x509

PEM_LIMIT = 4_000_000
"""Bytes; bundles of all public authorities have some 250 kB."""

RDS = "rds"
"""In place of a file's path: the authorities of Amazon RDS in all regions, which come with the proxy."""

RDS_ROOTS = Path(__file__).parent.parent / "roots" / "rds.pem"


class PassphraseNeededError(Exception):
    """The private key is encrypted."""


def read_pem(path: Path) -> bytes:
    """The content of a file. Raises: ValueError."""
    try:
        with path.open("rb") as file:
            return file.read(PEM_LIMIT)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def parse_certificates(content: bytes) -> list[x509.Certificate]:
    """The certificates in a PEM text; none if any is malformed."""
    try:
        found = [
            x509.Certificate.load(der, strict=True)
            for kind, _, der in pem.unarmor(content, multiple=True)
            if kind == "CERTIFICATE"
        ]
        for certificate in found:
            _ = certificate.not_valid_after  # parsed on first use
    except ValueError:
        return []
    return found


def _certificates(path: Path) -> list[x509.Certificate]:
    found = parse_certificates(read_pem(path))
    if not found:
        raise ValueError(f"{path} holds no certificate: it must be a PEM file with -----BEGIN CERTIFICATE-----")
    return found


def check_certificate(path: Path) -> Path:
    """Pass on the path of a PEM file with a certificate. Its dates are watched while the proxy runs, and logged."""
    _certificates(path)
    return path


def or_rds(path: Any) -> Any:
    """A file's path, or the word for the authorities of RDS."""
    return RDS_ROOTS if path == RDS else path


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
    if b"PRIVATE KEY-----" not in read_pem(path):
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
