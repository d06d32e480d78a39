"""A function with the layer and no password at all: its role's credentials let it in through the proxy."""

from __future__ import annotations

import psycopg
import pytest
from tests.proxy.identity.iam.conftest import (
    PROXY_ID,
    REGION,
    StartIamProxy,
    authority,
    iam_proxy,
    key,
    known_to,
    new_key,
    start_iam_proxy,
    sts,
)
from tests.proxy.lifecycle.conftest import Authority
from tests.support.proxy import ProxyProcess

import tidegate
from tidegate_load.sts.server import StandInSts
from tidegate_load.sts.signature import Key

__all__ = ["StartIamProxy", "authority", "iam_proxy", "key", "start_iam_proxy", "sts"]


def give(monkeypatch: pytest.MonkeyPatch, key: Key) -> None:
    """What Lambda puts into the environment of a function with a role."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key.secret_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", str(key.session_token))


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch, iam_proxy: ProxyProcess, authority: Authority, key: Key) -> None:
    """The environment of a function that is configured for the Tidegate token."""
    settings = {
        "AUTH": "tidegate-iam",
        "PROXY_ID": PROXY_ID,
        "REGION": REGION,
        "HOST": "127.0.0.1",
        "PORT": iam_proxy.port,
        "DBNAME": iam_proxy.database.name,
        "USER": iam_proxy.database.user,
        "SSLMODE": "verify-full",
        "SSLROOTCERT": authority.ca,
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"TIDEGATE_{name}", str(value))
    give(monkeypatch, key)


@pytest.mark.usefixtures("function")
def test_a_function_logs_in_with_its_roles_credentials(iam_proxy: ProxyProcess, sts: StandInSts) -> None:
    db = tidegate.connect()
    try:
        with db.connection() as conn:
            assert conn.execute("SELECT current_user").fetchone() == (iam_proxy.database.user,)
    finally:
        db.close()
    assert sts.answers == {"ok": 1}


@pytest.mark.usefixtures("function")
def test_a_kept_token_that_is_refused_is_signed_anew_once(
    monkeypatch: pytest.MonkeyPatch,
    sts: StandInSts,
    key: Key,
    iam_proxy: ProxyProcess,
    start_iam_proxy: StartIamProxy,
) -> None:
    db = tidegate.connect()
    try:
        # The role's session is revoked and renewed, and the proxy that knows the token is replaced by another.
        iam_proxy.stop()
        del sts.keys[key.access_key]
        give(monkeypatch, known_to(sts, new_key()))
        start_iam_proxy(user=iam_proxy.database.user, listen_port=iam_proxy.port)
        with db.connection() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
    finally:
        db.close()
    assert sts.answers == {"ok": 2, "InvalidClientTokenId": 1}


@pytest.mark.usefixtures("function")
def test_a_role_that_no_rule_names_is_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch, sts: StandInSts, iam_proxy: ProxyProcess
) -> None:
    give(monkeypatch, known_to(sts, new_key("arn:aws:sts::123456789012:assumed-role/intruder/x")))
    db = tidegate.connect()
    try:
        with (
            pytest.raises(psycopg.OperationalError, match="The IAM authentication failed for the role"),
            db.connection(),
        ):
            pass
    finally:
        db.close()
    assert iam_proxy.log.count("REASON: principal:") == 2, "INIT, and the use of the connection"


@pytest.mark.usefixtures("function")
def test_throttling_by_sts_is_waited_out(sts: StandInSts) -> None:
    sts.throttled = 2
    db = tidegate.connect()
    try:
        with db.connection() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
    finally:
        db.close()
    assert sts.answers == {"Throttling": 2, "ok": 1}
