"""The proxy's certificate as data: its dates, its key, and the secrets that it may come from."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
import trustme
from tests.lambda_layer.identity.services import moto
from tests.proxy.settings.conftest import SERVER, Certificates, Load
from tests.proxy.settings.test_cli import run

from tidegate_proxy.certificates.pair import CertificateError, Pair
from tidegate_proxy.certificates.secret import split_secret
from tidegate_proxy.certificates.self_signed import self_signed
from tidegate_proxy.certificates.sources import Secret
from tidegate_proxy.credentials.aws import Aws

TODAY = datetime(2026, 6, 1, tzinfo=UTC)


def lasting(authority: trustme.CA, begins: datetime, ends: datetime) -> Pair:
    issued = authority.issue_cert("localhost", not_before=begins, not_after=ends)
    return Pair(issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes())


@pytest.mark.parametrize(
    ("life", "left", "level"),
    [
        (400, 22, None),
        (400, 20, logging.WARNING),
        (90, 22, None),
        (90, 20, logging.WARNING),
        (6, 2, None),
        (6, 1, logging.WARNING),
        (90, -3, logging.ERROR),
        (90, 91, logging.ERROR),
    ],
)
def test_an_operator_hears_in_time_of_a_certificates_end(
    authority: trustme.CA, life: int, left: int, level: int | None
) -> None:
    ends = TODAY + timedelta(days=left)
    concern = lasting(authority, ends - timedelta(days=life), ends).concern(TODAY)
    assert (concern and concern[0]) == level
    if concern and left < 0:
        assert concern[1] == "expired on 2026-05-29, 3 days ago: renew it; clients that verify it fail"
    elif concern and left < life:
        assert f"expires on {ends:%Y-%m-%d}, in {left} days: renew it" in concern[1]


def test_an_intermediate_certificates_end_counts_too(authority: trustme.CA) -> None:
    long = lasting(authority, TODAY - timedelta(days=1), TODAY + timedelta(days=300))
    short = lasting(authority, TODAY - timedelta(days=100), TODAY + timedelta(days=2))
    concern = Pair(long.chain + short.chain, long.key).concern(TODAY)
    assert concern is not None
    assert "2026-06-03" in concern[1]


def test_check_warns_of_an_expired_certificate_and_does_not_fail(tmp_path: Path, certificates: Certificates) -> None:
    (tmp_path / "tidegate.toml").write_text(
        'client_tls_cert = "expired.pem"\nclient_tls_key = "expired.key"\n' + SERVER
    )
    ran = run("check", "tidegate.toml", cwd=tmp_path)
    assert ran.returncode == 0
    assert "expired.pem: the certificate expired on 2020-01-02" in ran.stderr


def test_what_is_wrong_with_certificate_or_key_is_said_without_showing_it(authority: trustme.CA) -> None:
    good, other = (lasting(authority, TODAY, TODAY + timedelta(days=1)) for _ in range(2))
    for bad, words in (
        (Pair(b"", good.key), "no certificate in PEM format"),
        (Pair(good.chain, b""), "cannot be used"),
        (Pair(good.chain, other.key), "the private key is another certificate's"),
        (Pair(good.chain, good.key, b"x"), "client_tls_ca cannot be used"),
        (Pair(good.chain, good.key, b""), "client_tls_ca cannot be used: it is empty"),
    ):
        with pytest.raises(CertificateError, match=words) as caught:
            bad.server_tls()
        assert "BEGIN" not in str(caught.value)
    assert good.key.decode() not in repr(good)


def test_a_self_signed_certificate_is_for_this_machines_names(load: Load) -> None:
    from cryptography import x509

    certificate, key = self_signed()
    assert Pair(certificate, key).server_tls().channel_binding
    names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert {str(each.value) for each in names.value} == {"localhost", "127.0.0.1", "::1"}
    assert self_signed()[1] != key, "each one has a key of its own"


def test_the_ways_to_write_a_pair_into_a_secret(authority: trustme.CA) -> None:
    pair = lasting(authority, TODAY, TODAY + timedelta(days=1))
    certificate, key = pair.chain.decode(), pair.key.decode()
    for text in (
        json.dumps({"certificate": certificate, "private_key": key}),
        json.dumps({"certificate": certificate, "privateKey": key, "certificate_chain": certificate}),
        json.dumps({"tls.crt": certificate, "tls.key": key, "anything": 1}),
        certificate + key,
        key + "\n" + certificate,
    ):
        assert Pair(*split_secret(text)).server_tls().channel_binding
    for text, words in (
        ("", "holds no certificate"),
        (certificate, "holds no certificate with its private key"),
        ("{", "malformed JSON"),
        ("{}", 'no "certificate"'),
        (json.dumps({"certificate": certificate}), 'no "private_key"'),
        (json.dumps({"certificate": 1, "private_key": [key]}), 'no "certificate"'),
    ):
        with pytest.raises(CertificateError, match=words) as caught:
            split_secret(text)
        assert "it must be JSON such as" in str(caught.value)
        assert key[40:] not in str(caught.value)


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with moto() as endpoint:
        yield endpoint


@pytest.fixture
def secrets_manager(aws: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", aws)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    client = boto3.client("secretsmanager", region_name="eu-west-1")
    yield client
    client.close()


def read(secret: str, region: str | None = None) -> Pair:
    """The certificate in a secret, as the proxy reads it; `region` as by `aws_region`."""
    return Secret(secret, Aws(region), None).read()


def test_a_secret_is_read_by_its_arn_and_by_its_name(
    authority: trustme.CA, secrets_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = authority.issue_cert("localhost")
    pem = issued.cert_chain_pems[0].bytes() + issued.private_key_pem.bytes()
    text = secrets_manager.create_secret(Name="certificate", SecretString=pem.decode())["ARN"]
    binary = secrets_manager.create_secret(Name="binary-certificate", SecretBinary=pem)["ARN"]
    assert read(text) == read(binary) == Pair(pem, pem)
    with pytest.raises(
        CertificateError,
        match='secret "certificate": no AWS region is known: set aws_region, or give the secret',
    ):
        read("certificate")
    assert read("certificate", "eu-west-1") == Pair(pem, pem)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert read("certificate") == Pair(pem, pem)


def test_each_reason_not_to_get_a_secret_has_its_remedy(secrets_manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:nowhere-AbCdEf"
    with pytest.raises(CertificateError, match=f'secret "{arn}" does not exist .*: correct its name or ARN'):
        read(arn)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.0.1:1")
    with pytest.raises(CertificateError, match=r"can't be reached .*: check the region, and the route"):
        read(arn)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(CertificateError, match="no AWS credentials: give the task or the instance a role"):
        read(arn)
