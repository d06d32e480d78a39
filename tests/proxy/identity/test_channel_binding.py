"""SCRAM-SHA-256-PLUS against libpq with channel_binding=require: versions of TLS, kinds of certificate, and a man in
the middle whose certificate the client trusts."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from tests.proxy.lifecycle.tls_relay import TLSRelay
from tests.support.certificates import PrivateKey, self_issued
from tests.support.proxy import StartProxy

Digest = hashes.SHA256 | hashes.SHA384 | hashes.SHA512
KEYS: dict[str, tuple[Callable[[], PrivateKey], Digest | None]] = {
    "RSA": (lambda: rsa.generate_private_key(65537, 2048), hashes.SHA256()),
    "RSA, SHA-512": (lambda: rsa.generate_private_key(65537, 2048), hashes.SHA512()),
    "ECDSA": (lambda: ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()),
    "ECDSA, SHA-384": (lambda: ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
    "Ed25519": (ed25519.Ed25519PrivateKey.generate, None),
}


def certificate(folder: Path, kind: str) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one file."""
    make, digest = KEYS[kind]
    key = make()
    made = (
        self_issued("proxy", key, days=1)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, digest)
    )
    path = folder / f"{kind.partition(',')[0]}.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.mark.parametrize("kind", [kind for kind in KEYS if kind != "Ed25519"])
def test_libpq_binds_to_the_channel(start_proxy: StartProxy, tmp_path: Path, kind: str) -> None:
    pem = certificate(tmp_path, kind)
    proxy = start_proxy(client_tls="require", client_tls_cert=str(pem))
    for version in ("TLSv1.2", "TLSv1.3"):
        with proxy.connect(
            sslmode="verify-full",
            sslrootcert=str(pem),
            channel_binding="require",
            ssl_min_protocol_version=version,
            ssl_max_protocol_version=version,
        ) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)


def test_an_ed25519_certificate_has_no_channel_binding_and_libpq_says_so(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    pem = certificate(tmp_path, "Ed25519")
    proxy = start_proxy(client_tls="require", client_tls_cert=str(pem))
    for version in ("TLSv1.2", "TLSv1.3"):
        options = {"sslmode": "require", "ssl_min_protocol_version": version, "ssl_max_protocol_version": version}
        with pytest.raises(psycopg.OperationalError, match="channel binding"):
            proxy.connect(channel_binding="require", **options)
        # A client that merely prefers it logs in without.
        with proxy.connect(channel_binding="disable", **options) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_man_in_the_middle_with_a_trusted_certificate_gets_no_further_than_the_login(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    proxy = start_proxy()  # towards the relay without TLS, so that nothing is offered there
    pem = certificate(tmp_path, "RSA")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with TLSRelay(proxy.port, context) as relay:
        keywords = {"port": relay.port, "sslmode": "verify-full", "sslrootcert": str(pem)}
        with pytest.raises(psycopg.OperationalError, match="channel binding is required, but server did not offer"):
            proxy.connect(channel_binding="require", **keywords)
        # The relay can't be noticed where nobody insists, as with PostgreSQL itself.
        with proxy.connect(channel_binding="prefer", **keywords) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
