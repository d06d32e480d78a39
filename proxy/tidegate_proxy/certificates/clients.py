"""Clients' own certificates."""

from __future__ import annotations

import ssl
from typing import Any

from tidegate_proxy.errors import AuthenticationError
from tidegate_proxy.settings import Settings


def check_client_certificate(settings: Settings, tls: ssl.SSLObject | None, user: str) -> None:
    """See that a client has the certificate that `client_tls_verify` wants; OpenSSL has verified its chain already.

    Parameters: `tls`, of the client's connection; `user`, whom it wants to be.
    Raises: AuthenticationError, in PostgreSQL's words for `clientcert` in pg_hba.conf.
    """
    if settings.client_tls_ca is None or settings.client_tls_verify == "optional":
        return
    subject: Any = (tls.getpeercert() or {}).get("subject") if tls is not None else None
    if subject is None:
        raise AuthenticationError("connection requires a valid client certificate", sqlstate="28000")
    if settings.client_tls_verify == "verify-full":
        names = [value for part in subject for key, value in part if key == "commonName"]
        if names != [user]:
            raise AuthenticationError(f'certificate authentication failed for user "{user}"', sqlstate="28000")
