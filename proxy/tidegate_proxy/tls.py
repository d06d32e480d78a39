"""TLS contexts: one for what clients connect to, one for each way to connect to a PostgreSQL server."""

from __future__ import annotations

import hashlib
import ssl

from asn1crypto import x509

from tidegate_proxy.settings import ConfigurationError, DatabaseSettings, Settings
from tidegate_proxy.settings.certificates import PassphraseNeededError, load_pair

ALPN = "postgresql"
"""The protocol's registered name. A client that starts TLS without asking first must offer it."""


def client_side_context(settings: Settings) -> ssl.SSLContext | None:
    """The context with which the proxy, as a TLS server, accepts clients.

    Parameters: `settings`, with certificate and key files that may have changed since they were validated.
    Returns: None where clients get no TLS: it is disabled, or merely allowed without a certificate.
    Raises: ConfigurationError when certificate or key can no longer be used.
    """
    if settings.client_tls == "disable" or settings.client_tls_cert is None:
        return None
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    # A client could otherwise make us repeat the handshake's expensive half as often as it likes (TLS 1.2).
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        load_pair(context, settings.client_tls_cert, settings.client_tls_key)
    except (OSError, PassphraseNeededError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "the key needs a passphrase"
        raise ConfigurationError(
            f"client_tls_cert {settings.client_tls_cert}: certificate and key cannot be used: {reason}"
        ) from None
    return context


def server_side_context(database: DatabaseSettings) -> ssl.SSLContext | None:
    """The context with which the proxy, as a TLS client, connects to a database's server.

    Parameters: `database`; for "verify-full" the connection must name `database.host` as `server_hostname`.
    Returns: None where TLS is disabled.
    Raises: ConfigurationError when the authorities' file can no longer be used.
    """
    if database.tls == "disable":
        return None
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = database.tls == "verify-full"
    if database.tls == "require":
        context.verify_mode = ssl.CERT_NONE
    elif database.tls_ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        try:
            context.load_verify_locations(database.tls_ca)
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror
            raise ConfigurationError(f"tls_ca {database.tls_ca}: cannot be used: {reason}") from None
    return context


def _context(protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    return context


def tls_server_end_point(certificate_der: bytes) -> bytes:
    """Channel-binding data of the type "tls-server-end-point" (RFC 5929, section 4).

    Parameters: `certificate_der`, the TLS server's own certificate.
    Returns: its hash, by the hash function of its signature, with SHA-256 in place of MD5 and SHA-1.
    Raises: ValueError for something else than a certificate, and for signatures without one hash function
    (Ed25519), for which no such channel binding is defined.
    """
    certificate = x509.Certificate.load(certificate_der, strict=True)
    if certificate["signature_algorithm"]["algorithm"].native in ("ed25519", "ed448"):
        raise ValueError("no channel binding is defined for certificates signed with Ed25519 or Ed448")
    algorithm: str = certificate.hash_algo
    return hashlib.new("sha256" if algorithm in ("md5", "sha1") else algorithm, certificate_der).digest()
