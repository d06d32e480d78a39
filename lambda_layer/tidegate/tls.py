"""Which certificate authorities a server's certificate is verified against."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import ConfigurationError

# Where Amazon Linux and Debian keep the system's roots. libpq's "system" would ask the OpenSSL inside
# psycopg-binary, whose built-in folder exists on no machine.
SYSTEM_ROOTS = ("/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt")

ROOTS = Path(__file__).parent / "roots"


def is_local(host: str) -> bool:
    """Whether `host` is this machine: a socket folder, or an address or name of the loopback interface."""
    loopback = host.startswith("127.") and host.replace(".", "").isdigit()
    return loopback or host.startswith(("/", "@")) or host in ("localhost", "::1")


def root_file(host: str, sslmode: str, sslrootcert: str | None, region: str | None) -> str | None:
    """The value of libpq's sslrootcert.

    The host's name says who issued its certificate: RDS itself for a database, with authorities of its own in each
    region; a public authority for RDS Proxy (Amazon's, through ACM) and for everything else. Reading the three
    certificates that count instead of the hundred of a bundle saves ten milliseconds of every cold start.

    Parameters: the settings of the same names; `region` counts where the host's name does not say it.
    Returns: a file, or `system` on a machine where no file of roots is known, or None where nothing is verified.
    Raises: ConfigurationError, if a file cannot be read, or the layer has no certificates for the host's region.
    """
    if sslrootcert is None and sslmode != "verify-full":
        return None
    if sslrootcert == "system":
        return _system()
    place = _rds_place(host)
    if sslrootcert == "rds":
        place = (place[0] if place else region, False)
    elif sslrootcert is not None:
        return _readable(sslrootcert)
    if place is None:
        return _system()
    region, proxy = place
    if region is None:
        raise ConfigurationError(
            f"sslrootcert=rds needs a region, and the host's name {host} does not say it: set TIDEGATE_REGION, for"
            " example TIDEGATE_REGION=eu-west-1"
        )
    path = ROOTS / ("amazon.pem" if proxy else f"{region}.pem")
    if not path.exists():
        raise ConfigurationError(
            f"the layer has no certificates of RDS for {region}: download the bundle of that region from"
            " https://truststore.pki.rds.amazonaws.com, add it to the function, and name it, for example"
            f" TIDEGATE_SSLROOTCERT=/var/task/{region}-bundle.pem"
        )
    return str(path)


def _rds_place(host: str) -> tuple[str | None, bool] | None:
    """The region of an RDS endpoint, and whether it is RDS Proxy's; None for any other host."""
    labels = host.lower().rstrip(".").split(".")
    if len(labels) >= 5 and labels[-3:] == ["rds", "amazonaws", "com"]:
        return labels[-4], labels[-5].startswith("proxy-")
    if len(labels) >= 6 and labels[-3:] == ["amazonaws", "com", "cn"] and labels[-5] == "rds":
        return labels[-4], labels[-6].startswith("proxy-")
    return None


def _readable(path: str) -> str:
    if not os.access(path, os.R_OK):
        raise ConfigurationError(
            f"the file of trusted certificates {path} cannot be read: set TIDEGATE_SSLROOTCERT (PGSSLROOTCERT) to a"
            " file in PEM format that is in the layer or the function, for example /opt/company-ca.pem"
        )
    return path


def _system() -> str:
    return next((path for path in SYSTEM_ROOTS if os.access(path, os.R_OK)), "system")
