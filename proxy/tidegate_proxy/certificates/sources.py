"""Where the proxy's certificate comes from: files, a secret of Secrets Manager, or a local self-signed one."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tidegate_proxy.certificates.pair import CertificateError, Pair
from tidegate_proxy.certificates.secret import split_secret
from tidegate_proxy.certificates.self_signed import self_signed
from tidegate_proxy.credentials.aws import Aws, AwsError
from tidegate_proxy.credentials.secret import CURRENT
from tidegate_proxy.settings import Settings
from tidegate_proxy.settings.certificates import read_pem


class Source(Protocol):
    """Something that a certificate is read from, again and again."""

    name: str
    """For messages: the setting and what it names."""

    remote: bool
    """Whether reading may take seconds, so that the proxy's start must not depend on it."""

    def read(self) -> Pair:
        """The present certificate; may block. Raises: CertificateError."""


class Files:
    """Certificate and key in PEM files; None as `key` for a key in the certificate's file."""

    remote = False

    def __init__(self, certificate: Path, key: Path | None, authorities: Path | None) -> None:
        self.name = f"client_tls_cert {certificate}"
        self._certificate = certificate
        self._key = key
        self._authorities = authorities

    def read(self) -> Pair:
        """See Source."""
        chain = _read(self._certificate)
        return Pair(chain, chain if self._key is None else _read(self._key), _read_optional(self._authorities))


class Secret:
    """A secret of Secrets Manager, by name or ARN."""

    remote = True

    def __init__(self, secret: str, aws: Aws, authorities: Path | None) -> None:
        self.name = f"client_tls_secret {secret}"
        self._secret = secret
        self._aws = aws
        self._authorities = authorities

    def read(self) -> Pair:
        """See Source."""
        try:
            found = self._aws.read_secret(self._secret, (CURRENT,))[CURRENT]
        except AwsError as error:
            raise CertificateError(str(error)) from None
        text = found.text if found.text is not None else (found.binary or b"").decode("utf-8", "replace")
        chain, key = split_secret(text)
        return Pair(chain, key, _read_optional(self._authorities))


class SelfSigned:
    """One made here, for this run of the proxy."""

    remote = False

    def __init__(self, authorities: Path | None) -> None:
        self.name = "client_tls_self_signed"
        self._authorities = authorities
        self._made: tuple[bytes, bytes] | None = None

    def read(self) -> Pair:
        """See Source."""
        if self._made is None:
            self._made = self_signed()
        return Pair(*self._made, _read_optional(self._authorities))


def source_of(settings: Settings, aws: Aws) -> Source | None:
    """Where these settings say that the certificate is; None if clients get no TLS. Parameters: `aws`, for secrets."""
    if settings.client_tls == "disable":
        return None
    if settings.client_tls_cert is not None:
        return Files(settings.client_tls_cert, settings.client_tls_key, settings.client_tls_ca)
    if settings.client_tls_secret is not None:
        return Secret(settings.client_tls_secret, aws, settings.client_tls_ca)
    if settings.client_tls_self_signed:
        return SelfSigned(settings.client_tls_ca)
    return None


def _read(path: Path) -> bytes:
    try:
        return read_pem(path)
    except ValueError as error:
        raise CertificateError(str(error)) from None


def _read_optional(path: Path | None) -> bytes | None:
    return None if path is None else _read(path)
