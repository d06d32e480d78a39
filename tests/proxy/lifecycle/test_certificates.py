"""The certificate that clients are shown: renewed while the proxy runs, and what a bad one does."""

from __future__ import annotations

import json
import signal
import socket
import ssl
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
import trustme
from tests.lambda_layer.identity.services import moto
from tests.proxy.lifecycle.conftest import Authority
from tests.proxy.metrics.test_served import samples
from tests.support.proxy import ProxyProcess, StartProxy, eventually

from tidegate_proxy.protocol import encode


class Renewed:
    """Certificate and key in one file, or two, that a test replaces."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.file = folder / "proxy.pem"
        self._authority = authority
        self.renew()

    def renew(self, **keywords: Any) -> bytes:
        """Put a new certificate there. Returns: it, as DER."""
        issued = self._authority.authority.issue_cert("localhost", "127.0.0.1", **keywords)
        # As tools do it that want no reader to see half a file.
        new = self.file.with_suffix(".new")
        issued.private_key_and_cert_chain_pem.write_to_path(str(new))
        new.rename(self.file)
        return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


@pytest.fixture
def renewed(tmp_path: Path, authority: Authority) -> Renewed:
    return Renewed(tmp_path, authority)


def shown(proxy: ProxyProcess) -> bytes | None:
    """The certificate that a new client sees; None if TLS is refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as raw:
        raw.sendall(encode.ssl_request())
        if raw.recv(1) == b"N":
            return None
        with context.wrap_socket(raw) as tls:
            return tls.getpeercert(binary_form=True)


def said(proxy: ProxyProcess, words: str) -> bool:
    """Whether the log has these words."""
    return words in proxy.log


def bound(proxy: ProxyProcess, authority: Authority) -> psycopg.Connection[Any]:
    """A session whose login verifies the certificate, and is bound to it."""
    return proxy.connect(sslmode="verify-full", sslrootcert=str(authority.ca), channel_binding="require")


@pytest.mark.parametrize("how", ["by a signal", "on schedule"])
def test_a_renewed_certificate_is_shown_and_sessions_stay(
    start_proxy: StartProxy, authority: Authority, renewed: Renewed, how: str
) -> None:
    refresh = 3600 if how == "by a signal" else 0.2
    proxy = start_proxy(client_tls_cert=str(renewed.file), client_tls_refresh=refresh)
    with bound(proxy, authority) as before:
        new = renewed.renew()
        if how == "by a signal":
            proxy.process.send_signal(signal.SIGHUP)
        eventually(lambda: shown(proxy) == new, what="the new certificate")
        with bound(proxy, authority) as after:
            assert after.execute("SELECT 1").fetchone() == (1,)
        assert before.execute("SELECT 1").fetchone() == (1,)
    assert proxy.log.count("clients are shown the certificate of") == 2


def test_a_new_certificate_that_cannot_be_used_changes_nothing_and_is_said_once(
    start_proxy: StartProxy, authority: Authority, renewed: Renewed
) -> None:
    proxy = start_proxy(client_tls_cert=str(renewed.file), client_tls_refresh=0.1)
    proxy.allowed_in_log.append(" ERROR tidegate_proxy.certificates")
    old = shown(proxy)
    other = authority.authority.issue_cert("localhost")
    halves = other.cert_chain_pems[0].bytes() + trustme.CA().issue_cert("localhost").private_key_pem.bytes()
    for bad, words in (
        (b"", "there is no certificate in PEM format"),
        (halves, "the private key is another certificate's"),
        (None, "cannot be read: No such file"),
    ):
        if bad is None:
            renewed.file.unlink()
        else:
            renewed.file.write_bytes(bad)
        eventually(partial(said, proxy, words), what=words)
        assert shown(proxy) == old
        with proxy.connect(sslmode="require") as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
    new = renewed.renew()
    eventually(lambda: shown(proxy) == new, what="the certificate that is good again")
    assert proxy.log.count("the one before stays in use") <= 5, proxy.log
    assert "BEGIN" not in proxy.log


def test_an_expired_certificate_is_said_and_still_encrypts(
    start_proxy: StartProxy, authority: Authority, renewed: Renewed
) -> None:
    renewed.renew(not_after=datetime(2020, 1, 2, tzinfo=UTC))
    proxy = start_proxy(client_tls="require", client_tls_cert=str(renewed.file), client_tls_refresh=0.1)
    proxy.allowed_in_log.append(" ERROR tidegate_proxy.certificates")
    with proxy.connect(sslmode="require") as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        bound(proxy, authority)
    assert f"client_tls_cert {renewed.file}: the certificate expired on 2020-01-02" in proxy.log
    new = renewed.renew()
    eventually(lambda: shown(proxy) == new, what="the new certificate")
    assert proxy.log.count("expired on") == 1


def test_a_self_signed_certificate_only_on_request(start_proxy: StartProxy) -> None:
    assert shown(start_proxy()) is None
    proxy = start_proxy(client_tls="require", client_tls_self_signed=True)
    with proxy.connect(sslmode="require", channel_binding="require") as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_certificate_out_of_secrets_manager(
    start_proxy: StartProxy, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The secret does not exist at first: the proxy starts, says so, and serves once it does; then it is rotated."""

    def value() -> tuple[str, bytes]:
        issued = authority.authority.issue_cert("localhost", "127.0.0.1")
        certificate = issued.cert_chain_pems[0].bytes().decode()
        text = json.dumps({"certificate": certificate, "private_key": issued.private_key_pem.bytes().decode()})
        return text, ssl.PEM_cert_to_DER_cert(certificate)

    with moto() as endpoint:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "x")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", endpoint)
        manager = boto3.client("secretsmanager")
        proxy = start_proxy(client_tls="require", client_tls_secret="proxy/tls", client_tls_refresh=0.3)
        proxy.allowed_in_log.append(" ERROR tidegate_proxy.certificates")
        assert (
            "client_tls_secret proxy/tls: the certificate cannot be used, clients get no TLS until it can" in proxy.log
        )
        assert 'secret "proxy/tls" does not exist in its region and account: correct its name or ARN' in proxy.log
        assert shown(proxy) is None
        text, certificate = value()
        manager.create_secret(Name="proxy/tls", SecretString=text)
        eventually(lambda: shown(proxy) == certificate, what="the secret's certificate")
        with bound(proxy, authority) as conn:
            text, certificate = value()
            manager.put_secret_value(SecretId="proxy/tls", SecretString=text)
            eventually(lambda: shown(proxy) == certificate, what="the rotated secret's certificate")
            assert conn.execute("SELECT 1").fetchone() == (1,)
        manager.close()
    assert "PRIVATE KEY" not in proxy.log


def days_left(proxy: ProxyProcess) -> list[float]:
    return [value for (name, _), value in samples(proxy).items() if name == "tidegate_certificate_days_left"]


def test_how_long_the_certificate_is_valid_is_a_metric_that_follows_a_renewal(
    start_proxy: StartProxy, renewed: Renewed
) -> None:
    renewed.renew(not_after=datetime.now(UTC) + timedelta(days=10))
    proxy = start_proxy(
        http_port=0, client_tls_cert=str(renewed.file), client_tls_key=str(renewed.file), client_tls_refresh=0.2
    )
    (days,) = days_left(proxy)
    assert 9.9 < days <= 10
    renewed.renew(not_after=datetime.now(UTC) + timedelta(days=90))
    eventually(lambda: 89.9 < days_left(proxy)[0] <= 90, what="the new certificate's days")


def test_an_expired_certificate_has_fewer_than_no_days_left(start_proxy: StartProxy, renewed: Renewed) -> None:
    long_ago, yesterday = datetime.now(UTC) - timedelta(days=9), datetime.now(UTC) - timedelta(days=1)
    renewed.renew(not_before=long_ago, not_after=yesterday)
    proxy = start_proxy(http_port=0, client_tls_cert=str(renewed.file), client_tls_key=str(renewed.file))
    proxy.allowed_in_log.append(" ERROR ")
    (days,) = days_left(proxy)
    assert -1.1 < days <= -1


def test_without_a_certificate_there_is_nothing_to_tell_of_it(start_proxy: StartProxy) -> None:
    assert days_left(start_proxy(http_port=0)) == []


def test_authorities_that_are_half_written_when_they_are_read_stop_no_later_renewal(
    start_proxy: StartProxy, renewed: Renewed, authority: Authority, tmp_path: Path
) -> None:
    authorities = tmp_path / "clients.pem"
    authorities.write_bytes(authority.ca.read_bytes())
    proxy = start_proxy(
        client_tls_cert=str(renewed.file),
        client_tls_ca=str(authorities),
        client_tls_verify="optional",
        client_tls_refresh=0.1,
    )
    proxy.allowed_in_log.append(" ERROR ")
    authorities.write_bytes(b"")
    eventually(lambda: "client_tls_ca cannot be used: it is empty" in proxy.log, what="the log line")
    authorities.write_bytes(authority.ca.read_bytes())
    new = renewed.renew()
    eventually(lambda: shown(proxy) == new, what="the new certificate")
