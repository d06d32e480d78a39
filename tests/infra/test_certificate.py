"""The certificate that `python -m tidegate_infra.certificate` makes is one that the proxy and clients accept."""

from __future__ import annotations

import json
import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from tidegate_infra.certificate import main, make

DOMAIN = "proxy.tidegate.internal"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        yield


def test_a_client_that_verifies_everything_accepts_it(tmp_path: Path) -> None:
    authority, secret = make(DOMAIN)
    (tmp_path / "certificate.pem").write_text(secret["certificate"] + secret["private_key"])
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(tmp_path / "certificate.pem")
    client_side = ssl.create_default_context(cadata=authority)
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with server_side.wrap_socket(theirs, server_side=True) as connection:
            connection.recv(1)

    server = threading.Thread(target=serve)
    server.start()
    with client_side.wrap_socket(ours, server_hostname=DOMAIN) as connection:
        assert connection.version() == "TLSv1.3"
        connection.send(b"x")
    server.join(timeout=60)
    assert not server.is_alive()


@pytest.mark.usefixtures("aws")
def test_it_goes_into_the_secret_in_the_proxys_own_shape_and_is_renewed_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--domain", DOMAIN, "--secret", "tidegate/certificate", "--ca", str(tmp_path / "ca.pem")]
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("arn:aws:secretsmanager:eu-west-1:")
    first = _secret()
    assert set(first) == {"certificate", "private_key"}
    assert (tmp_path / "ca.pem").read_text().startswith("-----BEGIN CERTIFICATE-----")
    assert main(arguments) == 0
    assert _secret() != first


@pytest.mark.parametrize("further", [[], ["--secret", "tidegate/certificate"]])
@pytest.mark.usefixtures("aws")
def test_the_authority_is_for_everybody_to_read_although_the_key_is_not(tmp_path: Path, further: list[str]) -> None:
    """A renewal is made under umask 077, for the key's sake; functions read the authority as another user."""
    before = os.umask(0o077)
    try:
        assert main(["--domain", DOMAIN, "--ca", str(tmp_path / "ca.pem"), *further]) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ca.pem").stat().st_mode) == 0o644


def _secret() -> dict[str, str]:
    client = boto3.client("secretsmanager")
    found: dict[str, str] = json.loads(client.get_secret_value(SecretId="tidegate/certificate")["SecretString"])
    return found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--domain", "proxy"], "--domain must be a host name"),
        (["--domain", DOMAIN, "--days", "0"], "--days must be from 1 to 3650"),
    ],
)
def test_bad_input_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err
