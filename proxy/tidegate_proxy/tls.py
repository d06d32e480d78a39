"""TLS contexts: one for what clients connect to, one for each way to connect to a PostgreSQL server."""

from __future__ import annotations

import hashlib
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from asn1crypto import x509

from tidegate_proxy.settings import ConfigurationError, DatabaseSettings
from tidegate_proxy.settings.certificates import RDS_ROOTS

logger = logging.getLogger(__name__)

ALPN = "postgresql"
"""The protocol's registered name. A client that starts TLS without asking first must offer it."""


@dataclass(frozen=True)
class ServerTLS:
    """What the proxy shows to clients: the context, and its certificate's tls-server-end-point data."""

    context: ssl.SSLContext
    channel_binding: bytes | None


def authorities_of(database: DatabaseSettings) -> Path | None:
    """The PEM file with the authorities that the database's server is verified against; None for the system's.

    A server of RDS has a certificate of RDS's own authorities, which no system knows; an RDS Proxy has a public one.
    """
    if database.tls_ca is not None:
        return database.tls_ca
    labels = database.host.lower().rstrip(".").split(".")
    is_rds = len(labels) >= 5 and labels[-3:] == ["rds", "amazonaws", "com"]
    return RDS_ROOTS if is_rds and not labels[-5].startswith("proxy-") else None


def server_side_context(database: DatabaseSettings) -> ssl.SSLContext | None:
    """The context with which the proxy, as a TLS client, connects to a database's server.

    Parameters: `database`; for "verify-full" the connection must name `database.host` as `server_hostname`.
    Returns: None where TLS is disabled.
    Raises: ConfigurationError when the authorities' file can no longer be used.
    """
    if database.tls == "disable":
        return None
    context = new_context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = database.tls == "verify-full"
    authorities = authorities_of(database)
    if database.tls in ("prefer", "require"):
        context.verify_mode = ssl.CERT_NONE
    elif authorities is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        try:
            context.load_verify_locations(authorities)
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror
            raise ConfigurationError(f"tls_ca {authorities}: cannot be used: {reason}") from None
    return context


class ServerContexts:
    """The contexts towards servers: one for all databases with the same settings, made anew when `tls_ca` changes."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, Path | None], tuple[object, ssl.SSLContext]] = {}

    def of(self, database: DatabaseSettings) -> ssl.SSLContext | None:
        """The context for a new connection; None where TLS is disabled.

        Raises: ConfigurationError when there is none yet and the authorities' file can't be used.
        """
        if database.tls == "disable":
            return None
        authorities = authorities_of(database)
        key = database.tls, authorities
        state = _state_of(authorities)
        known, context = self._made.get(key, (None, None))
        if context is None or state != known:
            try:
                made = server_side_context(database)
            except ConfigurationError as error:
                if context is None:
                    raise
                logger.error("%s; servers are verified against what it held before", error)
                made = context
            assert made is not None
            self._made[key] = (state, made)
            return made
        return context


def _state_of(path: Path | None) -> object:
    try:
        found = path.stat() if path is not None else None
    except OSError as error:
        return error.errno
    return found and (found.st_mtime_ns, found.st_size, found.st_ino)


def new_context(protocol: ssl._SSLMethod) -> ssl.SSLContext:
    """What both sides have in common: TLS 1.2 or later, and the protocol's name."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A peer could otherwise make us repeat the handshake's expensive half as often as it likes (TLS 1.2).
    context.options |= ssl.OP_NO_RENEGOTIATION
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
