"""A certificate with its key out of Secrets Manager."""

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


def read_secret(secret: str, default_region: str | None = None) -> str:
    """The present value (AWSCURRENT) of a secret; blocks for at most some 16 seconds.

    Parameters: `secret`, its name or ARN; an ARN also says the region, else it is `default_region`, or what AWS's
    usual configuration says.
    Raises: CertificateError, with the remedy.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

    parts = secret.split(":")
    region = parts[3] if len(parts) > 6 and parts[0] == "arn" else default_region
    config = Config(connect_timeout=3, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2})
    try:
        client = boto3.session.Session().client("secretsmanager", region_name=region, config=config)
        found = client.get_secret_value(SecretId=secret)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise CertificateError(f"Secrets Manager refuses it: {code}{_remedy(code)}") from None
    except NoRegionError:
        raise CertificateError(
            "no AWS region is known: give the secret's ARN, or set aws_region or AWS_REGION"
        ) from None
    except NoCredentialsError:
        raise CertificateError("there are no AWS credentials: give the task or the instance a role") from None
    except (BotoCoreError, ValueError) as error:
        raise CertificateError(f"Secrets Manager cannot be asked: {error}") from None
    text = found.get("SecretString")
    if text is None:
        text = bytes(found.get("SecretBinary", b"")).decode("utf-8", "replace")
    return str(text)


def _remedy(code: str) -> str:
    if code == "ResourceNotFoundException":
        return ": there is no such secret in that region and account: correct the name or ARN"
    if code.startswith("AccessDenied"):
        return ": allow the proxy's role secretsmanager:GetSecretValue on it (and kms:Decrypt on its key)"
    if code == "DecryptionFailure":
        return ": allow the proxy's role kms:Decrypt on the secret's key"
    if code in ("ExpiredTokenException", "UnrecognizedClientException", "InvalidSignatureException"):
        return ": the AWS credentials are not valid: renew them"
    return ""


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
