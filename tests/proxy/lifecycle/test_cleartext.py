"""A cleartext password is taken inside TLS and nowhere else."""

from __future__ import annotations

import psycopg
import pytest
from tests.proxy.lifecycle.conftest import Authority
from tests.support.proxy import ProxyProcess, StartProxy


@pytest.fixture
def cleartext_proxy(start_proxy: StartProxy, authority: Authority) -> ProxyProcess:
    """A proxy that asks its clients for their password as it is."""
    return start_proxy(
        client_auth="password", client_tls_cert=str(authority.certificate), client_tls_key=str(authority.key)
    )


def test_inside_tls_the_password_is_checked(cleartext_proxy: ProxyProcess) -> None:
    with cleartext_proxy.connect(sslmode="require", require_auth="password") as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    for wrong in ({"password": "wrong"}, {"password": "\udcff".encode(errors="surrogateescape").decode("latin1")}):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            cleartext_proxy.connect(sslmode="require", **wrong)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        cleartext_proxy.connect(sslmode="require", user="nobody_known")


def test_outside_tls_it_is_not_even_asked_for(cleartext_proxy: ProxyProcess) -> None:
    with pytest.raises(psycopg.OperationalError, match="allowed only inside TLS"):
        cleartext_proxy.connect(sslmode="disable")
