"""The proxy logs in to servers with IAM tokens of its own role, which are verified as RDS verifies them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import psycopg
import pytest
from tests.lambda_layer.identity.services import Service, always
from tests.proxy.console.helpers import show
from tests.proxy.identity.conftest import REGION, refusal
from tests.proxy.identity.iam.conftest import new_key
from tests.proxy.identity.rds_front import RdsFront
from tests.proxy.lifecycle.conftest import Authority, authority
from tests.proxy.metrics.test_served import get
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually

from tidegate_load.postgres import EmbeddedPostgres

__all__ = ["authority"]


@pytest.fixture(scope="module")
def trusting() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres("18", hba=("host all all 127.0.0.1/32 trust",)) as server:
        server.create_user("orders", "irrelevant")
        yield server


@pytest.fixture
def database(trusting: EmbeddedPostgres) -> Database:
    return Database(trusting, "postgres", "client", "password-of-client")


@pytest.fixture
def front(trusting: EmbeddedPostgres, authority: Authority) -> Iterator[RdsFront]:
    with RdsFront(trusting.port, authority.context("127.0.0.1")) as front:
        front.allowed.add("orders")
        yield front


@pytest.fixture
def task_role(front: RdsFront, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """Where ECS gives a task its role's credentials: others for each question, since they are about to expire."""

    def credentials(*_: object) -> tuple[int, bytes]:
        key = new_key()
        front.keys[key.access_key] = key
        end = datetime.fromtimestamp(time.time() + 300, UTC)
        return always(
            200,
            {
                "AccessKeyId": key.access_key,
                "SecretAccessKey": key.secret_key,
                "Token": key.session_token,
                "Expiration": f"{end:%Y-%m-%dT%H:%M:%SZ}",
            },
        )("", {})

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with Service(credentials) as service:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", service.url)
        yield service


Start = Callable[..., ProxyProcess]


@pytest.fixture
def start(start_proxy: StartProxy, front: RdsFront, authority: Authority, task_role: Service) -> Iterator[Start]:
    """A proxy that logs in to the front as `orders`. No token and no key gets into its log."""
    started: list[ProxyProcess] = []

    def start(**settings: Any) -> ProxyProcess:
        target = {"user": "orders", "server_auth": "iam", "tls": "verify-full", "tls_ca": str(authority.ca)}
        general = {name: value for name, value in ({"aws_region": REGION} | settings).items() if value is not None}
        proxy = start_proxy(database_settings=target | {"port": front.port}, **general)
        started.append(proxy)
        return proxy

    with ExitStack() as stack:
        yield start
        for proxy in started:
            stack.callback(says_nothing_secret, proxy, front)
            # Before the role's credentials are gone.
            stack.callback(proxy.close)


def says_nothing_secret(proxy: ProxyProcess, front: RdsFront) -> None:
    for token in front.tokens:
        signature = parse_qs(token.partition("?")[2])["X-Amz-Signature"][0]
        assert signature not in proxy.log
    for key in front.keys.values():
        for secret in (key.access_key, key.secret_key, str(key.session_token), quote(str(key.session_token), safe="")):
            assert secret not in proxy.log


def test_each_new_server_connection_has_a_token_of_its_own(start: Start, front: RdsFront) -> None:
    proxy = start(log_level="debug")
    with proxy.connect() as one, proxy.connect() as other, one.transaction(), other.transaction():
        for conn in (one, other):
            assert conn.execute("SELECT session_user").fetchone() == ("orders",)
    eventually(lambda: len(front.tokens) >= 3, what="two of clients, and the control connection")
    assert front.refusals == []
    signers = [parse_qs(token.partition("?")[2])["X-Amz-Credential"][0] for token in front.tokens]
    assert len({*signers}) == len(signers), "each was signed with the credentials that the role has by then"


def test_a_role_that_may_not_connect_is_said_with_the_remedy_until_it_may(
    start: Start, front: RdsFront, trusting: EmbeddedPostgres
) -> None:
    front.allowed.clear()
    proxy = start(server_login_retry=0.1, admin_users=["client"])
    proxy.allowed_in_log.append(" ERROR ")
    assert 'PAM authentication failed for user "orders"' in refusal(proxy)
    remedy = (
        'the server refuses the IAM token of user "orders": PAM authentication failed for user "orders": allow the '
        "proxy's role rds-db:connect for this user, and GRANT rds_iam TO the user on the server"
    )
    eventually(
        lambda: f"target 127.0.0.1:{front.port}: UNAVAILABLE, AUTH_FAILURE: {remedy}" in proxy.log,
        what="the target's health",
    )
    (target,) = show(proxy, "TARGETS")
    assert (target["state"], target["reason"], target["description"]) == ("UNAVAILABLE", "AUTH_FAILURE", remedy)
    assert proxy.log.count(f" ERROR tidegate_proxy.credentials.providers: {remedy}") <= 2, "not with each attempt"
    assert {*front.refusals} == {"rds-db:connect is not allowed"}

    front.allowed.add("orders")
    eventually(lambda: f"target 127.0.0.1:{front.port}: AVAILABLE" in proxy.log, timeout=60, what="the recovery")
    with proxy.connect() as conn:
        assert conn.execute("SELECT session_user").fetchone() == ("orders",)


def test_a_token_that_somebody_else_signed_is_refused_by_the_front(start: Start, front: RdsFront) -> None:
    """That the tests above can fail."""
    proxy = start()
    proxy.allowed_in_log.append(" ERROR ")
    eventually(lambda: f"target 127.0.0.1:{front.port}: AVAILABLE" in proxy.log, what="the control connection")

    class Forgetful(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            return new_key()

    front.keys = Forgetful()
    assert "PAM authentication failed" in refusal(proxy)
    assert front.refusals[-1] == "InvalidClientTokenId"


def test_without_a_region_the_remedy_is_named(start: Start, front: RdsFront, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    proxy = start(aws_region=None)
    proxy.allowed_in_log.append(" ERROR ")
    words = f"at 127.0.0.1:{front.port}: no AWS region is known: set aws_region\n"
    eventually(lambda: f'AUTH_FAILURE: the IAM token for user "orders" {words}' in proxy.log, what="the log line")


def test_without_a_role_the_proxy_starts_and_says_what_is_missing(
    start: Start, front: RdsFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    proxy = start()
    proxy.allowed_in_log.append(" ERROR ")
    with pytest.raises(psycopg.OperationalError, match='this proxy has no credentials for the role "orders"'):
        proxy.connect()
    words = (
        f'AUTH_FAILURE: the IAM token for user "orders" at 127.0.0.1:{front.port}: there are no AWS credentials: give '
        "the task or the instance a role"
    )
    eventually(lambda: words in proxy.log, what="the target's health")
    assert front.tokens == []


def test_with_tokens_alone_it_is_ready_once_one_of_them_has_worked(
    database: Database, front: RdsFront, authority: Authority, task_role: Service, tmp_path: Path
) -> None:
    config = f"""
listen_port = 0
http_port = 0
check_targets = false
aws_region = "{REGION}"
client_tls_cert = "{authority.certificate}"
client_tls_key = "{authority.key}"
[databases."*"]
host = "127.0.0.1"
port = {front.port}
server_auth = "iam"
tls_ca = "{authority.ca}"
[iam]
region = "{REGION}"
proxy_id = "shop"
[[iam.rules]]
principal = "arn:aws:iam::123456789012:role/orders"
users = ["orders"]
"""
    front.allowed.clear()
    proxy = ProxyProcess(tmp_path, database, config)
    try:
        proxy.allowed_in_log.append(" ERROR ")
        proxy.wait_until_listening()
        assert get(proxy, "/readyz") == (503, "no login to a target is possible\n")
        front.allowed.add("orders")
        eventually(lambda: get(proxy, "/readyz") == (200, "ok\n"), what="a token that works")
    finally:
        proxy.close()
