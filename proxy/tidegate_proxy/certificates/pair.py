"""A certificate with its private key, as data: checked, described, and made into a TLS server's context."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from asn1crypto import x509

from tidegate_proxy.settings.certificates import PassphraseNeededError, load_pair, parse_certificates
from tidegate_proxy.tls import ServerTLS, new_context, tls_server_end_point

RENEWAL = timedelta(days=21)
"""A certificate is said to expire soon from here on. ACM, cert-manager and ACME clients have renewed it by then."""


class CertificateError(Exception):
    """Certificate or key can't be had or used; `str()` says which, why, and what would help."""


@dataclass(frozen=True, slots=True)
class Pair:
    """PEM texts.

    - `chain`: the proxy's certificate, then its intermediate ones. `key`: the private key of the first.
    - `authorities`: of which clients' certificates may come; None asks clients for none.
    """

    chain: bytes
    key: bytes = field(repr=False)
    authorities: bytes | None = None

    def certificates(self) -> list[x509.Certificate]:
        """The chain, parsed; the proxy's own certificate first. Raises: CertificateError."""
        found = parse_certificates(self.chain)
        if not found:
            raise CertificateError("there is no certificate in PEM format")
        return found

    def describe(self) -> str:
        """The certificate in one line: whose, until when, its SHA-256 fingerprint. Raises: CertificateError."""
        first = self.certificates()[0]
        fingerprint = hashlib.sha256(first.dump()).hexdigest()
        return (
            f"{first.subject.human_friendly}, valid until {first.not_valid_after:%Y-%m-%d %H:%M} UTC, "
            f"SHA-256 {fingerprint}"
        )

    def days_left(self, now: datetime) -> float:
        """Days until the first certificate of the chain expires; below 0 when it has. Raises: CertificateError."""
        ends: datetime = min(each.not_valid_after for each in self.certificates())
        return (ends - now) / timedelta(days=1)

    def concern(self, now: datetime) -> tuple[int, str] | None:
        """What an operator should know of the chain's dates: a level of `logging` and a sentence; None if all is well.

        "Soon" is within RENEWAL, or within a quarter of the certificate's life where that is less.
        """
        certificates = self.certificates()
        begins: datetime = max(each.not_valid_before for each in certificates)
        if begins > now:
            return logging.ERROR, f"is not valid before {begins:%Y-%m-%d %H:%M} UTC: clients that verify it fail"
        first = min(certificates, key=lambda each: each.not_valid_after)
        ends: datetime = first.not_valid_after
        if ends <= now:
            days = (now - ends).days
            return logging.ERROR, f"expired on {ends:%Y-%m-%d}, {days} days ago: renew it; clients that verify it fail"
        if ends - now < min(RENEWAL, (ends - first.not_valid_before) / 4):
            return logging.WARNING, f"expires on {ends:%Y-%m-%d}, in {(ends - now).days} days: renew it"
        return None

    def server_tls(self) -> ServerTLS:
        """What clients are shown: a context, and the hash that binds logins to it.

        Raises: CertificateError.
        """
        certificate = self.certificates()[0].dump()
        context = new_context(ssl.PROTOCOL_TLS_SERVER)
        # OpenSSL sends two with each login, for clients that use none twice; few use any.
        context.num_tickets = 1
        try:
            with _as_file(self.chain + b"\n" + self.key) as path:
                load_pair(context, path, None)
        except PassphraseNeededError:
            raise CertificateError("the private key needs a passphrase: give a key without one") from None
        except ssl.SSLError as error:
            reason = error.reason or "not a valid private key"
            if reason == "KEY_VALUES_MISMATCH":
                reason = "the private key is another certificate's"
            raise CertificateError(f"certificate and key cannot be used: {reason}") from None
        if self.authorities is not None:
            _ask_for_certificates(context, self.authorities)
        try:
            binding: bytes | None = tls_server_end_point(certificate)
        except ValueError:
            binding = None
        return ServerTLS(context, binding)


def _ask_for_certificates(context: ssl.SSLContext, authorities: bytes) -> None:
    try:
        # Not set_client_ca_list's way: no handshake carries the names of the authorities.
        context.load_verify_locations(cadata=authorities.decode("ascii", "replace"))
    except ssl.SSLError as error:
        raise CertificateError(f"client_tls_ca cannot be used: {error.reason or error}") from None
    except ValueError:
        raise CertificateError("client_tls_ca cannot be used: it is empty") from None
    # A client without one is told so in PostgreSQL's words, later, and not by a broken handshake.
    context.verify_mode = ssl.CERT_OPTIONAL


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[Path]:
    """A path for OpenSSL to read from; a private key never gets onto a disk, and never changes half-way."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def now() -> datetime:
    """The present time, in UTC."""
    return datetime.now(UTC)
