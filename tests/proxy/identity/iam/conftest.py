"""Access keys of made-up principals, an STS that knows them, and proxies that trust it."""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.proxy.lifecycle.conftest import Authority, authority
from tests.support.proxy import ProxyProcess, StartProxy
from tests.support.rawclient import RawClient

from tidegate import auth
from tidegate.credentials import Credentials
from tidegate_load.sts.server import StandInSts
from tidegate_load.sts.signature import Key
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.decode import parse_error_fields

__all__ = ["authority"]

ACCOUNT = "123456789012"
REGION = "eu-west-1"
PROXY_ID = "shop-proxy"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/shop"


def new_key(arn: str = f"arn:aws:sts::{ACCOUNT}:assumed-role/shop/orders-api") -> Key:
    """Temporary credentials of a session of the role that the tests' rules allow, or of somebody else."""
    return Key(f"ASIA{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30), arn, secrets.token_urlsafe(300))


def token_of(key: Key, *, proxy_id: str = PROXY_ID, region: str = REGION, age: float = 0.0, expires: int = 900) -> str:
    """What `tidegate token` prints for whoever has this key; `age`, seconds ago."""
    credentials = Credentials(key.access_key, key.secret_key, key.session_token)
    return auth.generate_token(proxy_id, region, credentials=credentials, expires=expires, now=time.time() - age)


@pytest.fixture
def sts() -> Iterator[StandInSts]:
    """An STS on loopback; add to its `keys`."""
    with StandInSts() as server:
        yield server


@pytest.fixture
def key(sts: StandInSts) -> Key:
    """Credentials that the STS knows, of the role that may log in."""
    return known_to(sts, new_key())


def known_to(sts: StandInSts, key: Key) -> Key:
    """Let the STS know a key."""
    sts.keys[key.access_key] = key
    return key


def log_in(proxy: ProxyProcess, password: str, *, source: str = "127.0.0.1", **parameters: str) -> dict[str, str]:
    """Log in to a proxy over TLS, with a password as it is; `source`, the client's own address.

    Returns: the error's fields; none when it succeeds."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with RawClient(proxy.parameters, login=False, source=source) as client:
        client.send(encode.ssl_request())
        assert client.read_exactly(1) == b"S"
        client.socket = context.wrap_socket(client.socket)
        identity = {"user": proxy.database.user, "database": proxy.database.name}
        client.send(encode.startup_message(identity | parameters))
        assert client.read() == ("R", b"\0\0\0\3")
        client.send(encode.password_message(password.encode()))
        while True:
            kind, body = client.read()
            if kind == "E":
                return parse_error_fields(body)
            if kind == "Z":
                return {}


StartIamProxy = Callable[..., ProxyProcess]


@pytest.fixture
def start_iam_proxy(start_proxy: StartProxy, sts: StandInSts, authority: Authority) -> StartIamProxy:
    """Start a proxy into which the role may log in as the test's user; `iam` adds to the table of that name."""

    def start(*, iam: dict[str, Any] | None = None, **settings: Any) -> ProxyProcess:
        user = settings.pop("user", None)
        table = {
            "region": REGION,
            "proxy_id": PROXY_ID,
            "sts_endpoint": sts.url,
            # A second question, because the first one took too long, would be counted.
            "sts_timeout": 60,
            "rules": [{"principal": ROLE, "users": [user] if user else []}],
        } | (iam or {})
        return start_proxy(
            client_tls_cert=str(authority.certificate),
            client_tls_key=str(authority.key),
            client_tls="allow",
            iam=table,
            **settings,
        )

    return start


@pytest.fixture
def iam_proxy(start_iam_proxy: StartIamProxy, database: Any) -> ProxyProcess:
    """A proxy into which the role may log in as the test's user."""
    return start_iam_proxy(user=database.user)
