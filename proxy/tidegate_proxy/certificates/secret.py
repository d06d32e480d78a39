"""A certificate with its key as a secret of Secrets Manager has them."""

from __future__ import annotations

import json

from tidegate_proxy.certificates.pair import CertificateError

CERTIFICATE_KEYS = ("certificate", "cert", "tls.crt")
CHAIN_KEYS = ("certificate_chain", "chain", "ca.crt")
PRIVATE_KEY_KEYS = ("private_key", "privateKey", "key", "tls.key")
"""Names in the secret's JSON, by ACM's export, by common use, and as Kubernetes has them."""

_SHAPE = (
    'it must be JSON such as {"certificate": "-----BEGIN CERTIFICATE-----...", "private_key": '
    '"-----BEGIN PRIVATE KEY-----..."}, or both as PEM text'
)


def split_secret(text: str) -> tuple[bytes, bytes]:
    """Certificate chain and private key, in PEM, out of a secret's value.

    Raises: CertificateError, which never shows what was in the secret.
    """
    if text.lstrip().startswith("{"):
        try:
            fields = json.loads(text)
        except ValueError:
            raise CertificateError(f"the secret is malformed JSON: {_SHAPE}") from None
        certificate, key = _field(fields, CERTIFICATE_KEYS), _field(fields, PRIVATE_KEY_KEYS)
        if not certificate or not key:
            missing = "certificate" if not certificate else "private_key"
            raise CertificateError(f'the secret has no "{missing}": {_SHAPE}')
        return f"{certificate}\n{_field(fields, CHAIN_KEYS)}".encode(), key.encode()
    if "-----BEGIN CERTIFICATE-----" not in text or "PRIVATE KEY-----" not in text:
        raise CertificateError(f"the secret holds no certificate with its private key: {_SHAPE}")
    return text.encode(), text.encode()


def _field(fields: dict[str, object], names: tuple[str, ...]) -> str:
    values = [value for name in names if isinstance(value := fields.get(name), str) and value]
    return values[0] if values else ""
