"""A certificate for the proxy: an authority of one's own, a certificate by it, and the secret that the proxy reads.

python -m tidegate_infra.certificate --domain proxy.tidegate.internal --secret tidegate/certificate

writes the authority's certificate to `tidegate-ca.pem`, for clients, and puts certificate and key into Secrets Manager.
The authority's key is thrown away, so that it can sign nothing else; each run makes a new authority. To renew without
an interruption, make the new one without `--secret` (it is printed), give clients both authorities in one file, and
only then put the printed JSON into the secret: the proxy takes it over by itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 397
"""How long a certificate is valid: what browsers accept at most."""

SKEW = timedelta(minutes=5)
PEM = serialization.Encoding.PEM


def make(domain: str, days: int = DAYS) -> tuple[str, dict[str, str]]:
    """An authority, and a certificate by it.

    Parameters: `domain`, the host name that clients connect to.
    Returns: the authority's certificate as PEM, and what the secret holds: `certificate` and `private_key` as PEM.
    """
    begins = datetime.now(UTC) - SKEW
    ends = begins + timedelta(days=days)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Tidegate for {domain}"[:64])])
    authority = (
        _builder(authority_name, authority_name, authority_key.public_key(), begins, ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    own_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, domain[:64])])
    certificate = (
        _builder(own_name, authority_name, key.public_key(), begins, ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    secret = {"certificate": certificate.public_bytes(PEM).decode(), "private_key": private.decode()}
    return authority.public_bytes(PEM).decode(), secret


def _builder(name: x509.Name, issuer: x509.Name, key: Any, begins: datetime, ends: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        key_cert_sign=sign,
        crl_sign=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def put(client: Any, name: str, secret: dict[str, str]) -> str:
    """Put certificate and key into the secret `name`, which is made if it is not there.

    Parameters: `client`, boto3's for Secrets Manager.
    Returns: the secret's ARN.
    """
    text = json.dumps(secret)
    try:
        arn: str = client.create_secret(
            Name=name, Description="Certificate and key of the Tidegate proxy", SecretString=text
        )["ARN"]
    except client.exceptions.ResourceExistsException:
        arn = client.put_secret_value(SecretId=name, SecretString=text)["ARN"]
    return arn


def write_authority(file: Path, authority: str) -> None:
    """Write the authority's certificate for everybody to read, whatever the umask: it is public, and functions that get
    the file run as another user."""
    file.write_text(authority)
    file.chmod(0o644)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tidegate_infra.certificate", description="Make a certificate for the proxy."
    )
    parser.add_argument("--domain", required=True, help="host name that clients connect to: the app's domain_name")
    parser.add_argument("--secret", help="name of the secret; without it, certificate and key are printed as JSON")
    parser.add_argument("--ca", type=Path, default=Path("tidegate-ca.pem"), help="file for the authority's certificate")
    parser.add_argument("--days", type=int, default=DAYS, help=f"how long it is valid (default: {DAYS})")
    parser.add_argument("--region", help="AWS region; by default the environment's")
    chosen = parser.parse_args(arguments)
    if not 1 <= chosen.days <= 3650:
        parser.error("--days must be from 1 to 3650")
    if "." not in chosen.domain or any(character in chosen.domain for character in " /:@*"):
        parser.error("--domain must be a host name, for example proxy.tidegate.internal")
    authority, secret = make(chosen.domain, chosen.days)
    if chosen.secret is None:
        write_authority(chosen.ca, authority)
        sys.stdout.write(json.dumps(secret, indent=1) + "\n")
        return 0
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        arn = put(boto3.client("secretsmanager", region_name=chosen.region), chosen.secret, secret)
    except (BotoCoreError, ClientError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    # Last: clients must not trust an authority whose certificate nobody uses.
    write_authority(chosen.ca, authority)
    sys.stdout.write(f"{arn}\n{chosen.ca}: give it to clients, as TIDEGATE_SSLROOTCERT or PGSSLROOTCERT\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
