"""Renew the certificates in tidegate/roots: RDS's own authorities, one file for each region, and Amazon's public ones;
and those of all regions in one file, for the proxy.

    python lambda_layer/refresh_roots.py                      downloads AWS's bundle
    python lambda_layer/refresh_roots.py global-bundle.pem    takes a file, for example behind a proxy

Each certificate must parse, sign itself, and be valid for more than a year; expired ones and those of RDS's beta
and preview environments are left out. Nothing is written unless all of it is good.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import urllib.request
import warnings
from collections import defaultdict
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

BUNDLE = "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"
ROOTS = Path(__file__).parent / "tidegate/roots"
PROXY_ROOTS = Path(__file__).parent.parent / "proxy/tidegate_proxy/roots/rds.pem"

AMAZON_ROOTS = (
    "Amazon Root CA 1",
    "Amazon Root CA 2",
    "Amazon Root CA 3",
    "Amazon Root CA 4",
    "Starfield Services Root Certificate Authority - G2",
)
"""What ACM's certificates lead to, according to Amazon Trust Services; RDS Proxy's are ACM's."""

MIN_VALIDITY = datetime.timedelta(days=365)


class BundleError(ValueError):
    """The bundle cannot be used; the message says why."""


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name, or an empty text."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def parse(pem: bytes) -> list[x509.Certificate]:
    """All certificates of a bundle. Raises: BundleError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of RDS's old authorities have odd serial numbers
        try:
            return x509.load_pem_x509_certificates(pem)
        except ValueError as error:
            raise BundleError(f"the bundle is not in PEM format: {error}") from error


def verify(certificate: x509.Certificate, now: datetime.datetime) -> None:
    """Raises: BundleError, unless it is a certificate authority that signed itself and lasts."""
    name = common_name(certificate)
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise BundleError(f"{name} did not sign itself: {error}") from error
    if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise BundleError(f"{name} is not a certificate authority")
    if certificate.not_valid_after_utc < now + MIN_VALIDITY:
        raise BundleError(f"{name} ends on {certificate.not_valid_after_utc:%Y-%m-%d}")


def rds_roots(bundle: bytes, now: datetime.datetime) -> dict[str, list[x509.Certificate]]:
    """RDS's authorities by region. Raises: BundleError."""
    found: dict[str, list[x509.Certificate]] = defaultdict(list)
    for certificate in parse(bundle):
        name = common_name(certificate)
        words = name.split()
        # "Amazon RDS eu-west-1 Root CA RSA2048 G1"; the authorities of 2019 are all expired or were never roots.
        if certificate.issuer != certificate.subject or certificate.not_valid_after_utc < now:
            continue
        if words[:2] != ["Amazon", "RDS"] or words[3:5] != ["Root", "CA"]:
            continue
        verify(certificate, now)
        found[words[2]].append(certificate)
    if len(found) < 20 or "us-east-1" not in found:
        raise BundleError(f"the bundle has certificates of {len(found)} regions only: it is not RDS's global bundle")
    return found


def amazon_roots(store: bytes, now: datetime.datetime) -> list[x509.Certificate]:
    """Amazon Trust Services' authorities out of Mozilla's. Raises: BundleError."""
    by_name = {common_name(certificate): certificate for certificate in parse(store)}
    missing = [name for name in AMAZON_ROOTS if name not in by_name]
    if missing:
        raise BundleError(f"certifi does not have {', '.join(missing)}")
    for name in AMAZON_ROOTS:
        verify(by_name[name], now)
    return [by_name[name] for name in AMAZON_ROOTS]


def pem(certificates: list[x509.Certificate]) -> str:
    """The certificates in the order of their names, each below its name."""
    ordered = sorted(certificates, key=common_name)
    return "".join(f"# {common_name(each)}\n{each.public_bytes(Encoding.PEM).decode()}" for each in ordered)


def write(bundle: bytes, folder: Path, all_regions: Path) -> int:
    """Replace what is in `folder`, and the file `all_regions`.

    Returns: the number of regions. Raises: BundleError; OSError.
    """
    now = datetime.datetime.now(datetime.UTC)
    regions = rds_roots(bundle, now)
    files = {f"{region}.pem": pem(certificates) for region, certificates in regions.items()}
    files["amazon.pem"] = pem(amazon_roots(Path(certifi.where()).read_bytes(), now))
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.pem"):
        if old.name not in files:
            old.unlink()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="ascii")
    all_regions.write_text("".join(files[name] for name in sorted(files) if name != "amazon.pem"), encoding="ascii")
    return len(regions)


def main() -> int:
    parser = argparse.ArgumentParser(description="Renew the certificates of RDS in the layer.")
    parser.add_argument("bundle", nargs="?", type=Path, help=f"global-bundle.pem; from {BUNDLE} if not given")
    bundle = parser.parse_args().bundle
    try:
        if bundle is None:
            with urllib.request.urlopen(BUNDLE, timeout=30) as response:
                content = response.read()
        else:
            content = bundle.read_bytes()
        count = write(content, ROOTS, PROXY_ROOTS)
    except (BundleError, OSError) as error:
        print(f"nothing was changed: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"{ROOTS}: RDS's certificates of {count} regions, and {len(AMAZON_ROOTS)} of Amazon Trust Services")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
