"""Clients' own certificates: what PostgreSQL's `clientcert` means, in front of it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme
from tests.proxy.lifecycle.conftest import Authority
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy

Start = Callable[[str], ProxyProcess]


@pytest.fixture
def start(start_proxy: StartProxy, authority: Authority, tmp_path: Path) -> Start:
    """A proxy with this `client_tls_verify`, for certificates of clients.pem's authority."""

    def start(verify: str) -> ProxyProcess:
        return start_proxy(
            client_tls="require",
            client_tls_cert=str(authority.certificate),
            client_tls_key=str(authority.key),
            client_tls_ca=str(authority.ca),
            client_tls_verify=verify,
        )

    return start


@pytest.fixture
def own(authority: Authority, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """libpq's parameters for a certificate with this common name."""

    def own(common_name: str, by: trustme.CA | None = None) -> dict[str, str]:
        issued = (by or authority.authority).issue_cert(common_name=common_name)
        files = {"sslcert": tmp_path / "client.pem", "sslkey": tmp_path / "client.key"}
        issued.cert_chain_pems[0].write_to_path(str(files["sslcert"]))
        issued.private_key_pem.write_to_path(str(files["sslkey"]))
        files["sslkey"].chmod(0o600)
        return {name: str(path) for name, path in files.items()} | {"sslmode": "require"}

    return own


def ask(proxy: ProxyProcess, **keywords: Any) -> object:
    with proxy.connect(**keywords) as conn:
        return conn.execute("SELECT current_user").fetchone()


NONE = {"sslmode": "require", "sslcertmode": "disable"}


def test_optional(start: Start, own: Callable[..., dict[str, str]], database: Database) -> None:
    proxy = start("optional")
    assert ask(proxy, **NONE) == (database.user,)
    assert ask(proxy, **own("anybody")) == (database.user,)
    with pytest.raises(psycopg.OperationalError, match=r"SSL error|closed the connection unexpectedly"):
        ask(proxy, **own(database.user, trustme.CA()))


def test_verify_ca(start: Start, own: Callable[..., dict[str, str]], database: Database) -> None:
    proxy = start("verify-ca")
    assert ask(proxy, **own("anybody")) == (database.user,)
    with pytest.raises(psycopg.OperationalError, match="connection requires a valid client certificate") as refused:
        ask(proxy, **NONE)
    assert "password" not in str(refused.value)
    with pytest.raises(psycopg.OperationalError, match=r"SSL error|closed the connection unexpectedly"):
        ask(proxy, **own(database.user, trustme.CA()))
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        ask(proxy, **(own("anybody") | {"password": "wrong"}))


def test_verify_full(start: Start, own: Callable[..., dict[str, str]], database: Database) -> None:
    proxy = start("verify-full")
    assert ask(proxy, **own(database.user)) == (database.user,)
    for name in ("anybody", database.user + "x", database.user.upper()):
        with pytest.raises(
            psycopg.OperationalError, match=f'certificate authentication failed for user "{database.user}"'
        ):
            ask(proxy, **own(name))
    with pytest.raises(psycopg.OperationalError, match="connection requires a valid client certificate"):
        ask(proxy, **NONE)


def test_a_cancel_request_needs_none(start: Start, own: Callable[..., dict[str, str]], database: Database) -> None:
    """As PostgreSQL has it: the key is the proof."""
    proxy = start("verify-full")
    with proxy.connect(**own(database.user)) as conn:
        conn.cancel()
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_resumed_session_still_knows_the_certificate(
    start: Start, own: Callable[..., dict[str, str]], database: Database
) -> None:
    """TLS 1.2 and 1.3 take the certificate from the ticket then; nobody else could have made it."""
    from tests.proxy.lifecycle.tickets import resumed_startup

    proxy = start("verify-full")
    files = own(database.user)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = version
        context.load_cert_chain(files["sslcert"], files["sslkey"])
        assert resumed_startup(proxy, context) == [False, True]
