"""Which certificate authorities a server's certificate is verified against."""

from __future__ import annotations

import os

from .errors import ConfigurationError

# Where Amazon Linux and Debian keep the system's roots. libpq's "system" would ask the OpenSSL inside
# psycopg-binary, whose built-in folder exists on no machine.
SYSTEM_ROOTS = ("/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt")


def is_local(host: str) -> bool:
    """Whether `host` is this machine: a socket folder, or an address or name of the loopback interface."""
    return host.startswith(("/", "@", "127.")) or host in ("localhost", "::1")


def root_file(host: str, sslmode: str, sslrootcert: str | None) -> str | None:
    """The value of libpq's sslrootcert.

    Parameters: the settings of the same names.
    Returns: a file, or `system` on a machine without a known one, or None where nothing is verified.
    Raises: ConfigurationError, if a file that is named cannot be read.
    """
    if sslrootcert is None:
        return _system() if sslmode == "verify-full" else None
    if sslrootcert == "system":
        return _system()
    if not os.access(sslrootcert, os.R_OK):
        raise ConfigurationError(
            f"the file of trusted certificates {sslrootcert} cannot be read: set TIDEGATE_SSLROOTCERT (PGSSLROOTCERT)"
            " to a file in PEM format that is in the layer or the function, for example /opt/company-ca.pem"
        )
    return sslrootcert


def _system() -> str:
    return next((path for path in SYSTEM_ROOTS if os.access(path, os.R_OK)), "system")
