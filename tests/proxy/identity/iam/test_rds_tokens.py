"""Tokens for the database. PostgreSQL behind TLS that asks for the password as it is stands for RDS, whose PAM module
nobody else has: the role's password is the token."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import sql
from tests.proxy.console.helpers import show
from tests.proxy.identity.iam.conftest import REGION, log_in, new_key
from tests.proxy.lifecycle.conftest import Authority, tls_relay
from tests.proxy.lifecycle.tls_relay import TLSRelay
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually

from tidegate import auth
from tidegate.credentials import Credentials
from tidegate_load.postgres import EmbeddedPostgres

__all__ = ["tls_relay"]

HBA = ("host all postgres 127.0.0.1/32 scram-sha-256", "host all all 127.0.0.1/32 password")


@pytest.fixture(scope="module")
def rds() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres("18", hba=HBA) as server:
        yield server


@pytest.fixture
def database(rds: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database whose owner logs in with a token. The `users` of the proxy's configuration name somebody else."""
    rds.create_user("orders", "not yet a token")
    rds.create_database("shop", owner="orders")
    yield Database(rds, "shop", "nobody_here", "irrelevant-password")
    with rds.connect() as conn:
        conn.execute("DROP DATABASE shop WITH (FORCE)")
        conn.execute("DROP ROLE orders")


@pytest.fixture
def front(
    rds: EmbeddedPostgres, tls_relay: Callable[..., TLSRelay], authority: Authority, database: Database
) -> TLSRelay:
    """Where the proxy finds RDS; counts the logins."""
    return tls_relay(rds.port, authority.context("127.0.0.1"))


def token_for(front: TLSRelay, *, user: str = "orders", age: float = 0.0) -> str:
    """What `aws rds generate-db-auth-token` prints, each time signed with other credentials."""
    key = new_key()
    signer = Credentials(key.access_key, key.secret_key, key.session_token)
    now = time.time() - age
    return auth.generate_rds_token("127.0.0.1", front.port, user, REGION, credentials=signer, now=now)


def accept(rds: EmbeddedPostgres, token: str) -> str:
    """Have the server accept this token and no other."""
    with rds.connect() as conn:
        conn.execute(sql.SQL("ALTER ROLE orders PASSWORD {}").format(sql.Literal(token)))
    return token


StartRdsProxy = Callable[..., ProxyProcess]


@pytest.fixture
def start(start_proxy: StartProxy, front: TLSRelay, authority: Authority) -> StartRdsProxy:
    def start(
        *, iam: dict[str, Any] | None = None, target: dict[str, Any] | None = None, **keywords: Any
    ) -> ProxyProcess:
        proxy = start_proxy(
            client_tls_cert=str(authority.certificate),
            client_tls_key=str(authority.key),
            iam={"rds_users": ["orders"]} | (iam or {}),
            database_settings={"port": front.port, "tls": "verify-full", "tls_ca": str(authority.ca)} | (target or {}),
            **keywords,
        )
        proxy.database = replace(proxy.database, user="orders")
        return proxy

    return start


def test_a_token_that_the_server_accepts_opens_the_connection_that_is_then_used(
    start: StartRdsProxy, rds: EmbeddedPostgres, front: TLSRelay
) -> None:
    proxy = start()
    token = accept(rds, token_for(front))
    for _ in range(4):
        with proxy.connect(sslmode="require", password=token) as conn:
            assert conn.execute("SELECT current_user").fetchone() == ("orders",)
        eventually(lambda: front.handshakes == 2, what="the login itself and a control connection, and nothing more")
    assert len(proxy.server_pids()) == 1


def test_further_server_connections_are_opened_with_the_clients_token(
    start: StartRdsProxy, rds: EmbeddedPostgres, front: TLSRelay
) -> None:
    proxy = start()
    token = accept(rds, token_for(front))
    with (
        proxy.connect(sslmode="require", password=token) as one,
        proxy.connect(sslmode="require", password=token) as other,
        one.transaction(),
        other.transaction(),
    ):
        pids = {conn.execute("SELECT pg_backend_pid()").fetchone() for conn in (one, other)}
    assert len(pids) == 2


def test_a_token_that_the_server_refuses_is_refused(
    start: StartRdsProxy, rds: EmbeddedPostgres, front: TLSRelay
) -> None:
    proxy = start()
    accept(rds, token_for(front))
    refused = token_for(front)
    error = log_in(proxy, refused)
    assert error["C"] == "28P01"
    assert error["M"].startswith("The IAM authentication failed for the role orders.")
    assert "REASON: refused-by-server: the server says: password authentication failed" in proxy.log
    assert refused not in proxy.log
    assert proxy.server_pids() == set()


def test_a_token_that_cannot_be_right_reaches_no_server(
    start: StartRdsProxy, rds: EmbeddedPostgres, front: TLSRelay
) -> None:
    """Neither as a login nor by a control connection: no pool is made for it."""
    proxy = start(check_targets=False, stats_users=["nobody_here"])
    wrong = [
        token_for(front, user="admin"),
        token_for(front, age=901),
        token_for(front).replace("127.0.0.1", "db.example"),
        "hunter2",
    ]
    for token in wrong:
        accept(rds, token)
        assert log_in(proxy, token)["C"] == "28P01"
    assert log_in(proxy, token_for(front), database="unknown")["C"] == "28P01"
    watcher = {"user": "nobody_here", "sslmode": "require"}
    assert show(proxy, "TARGETS", **watcher) == []
    assert {row["database"] for row in show(proxy, "POOLS", **watcher)} <= {"pgbouncer"}
    assert front.connections == 0


def test_a_wrong_password_makes_no_pool(start: StartRdsProxy, front: TLSRelay) -> None:
    proxy = start(check_targets=False, stats_users=["nobody_here"])
    watcher = {"user": "nobody_here", "sslmode": "require"}
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        proxy.connect(**watcher, password="wrong")
    assert show(proxy, "TARGETS", **watcher) == []
    assert front.connections == 0


def test_a_server_that_does_not_ask_for_the_token_has_not_judged_it(
    start: StartRdsProxy, rds: EmbeddedPostgres, front: TLSRelay
) -> None:
    """A server that trusts would let everybody in who makes a token up."""
    proxy = start()
    rds.hba = [HBA[0], "host all all 127.0.0.1/32 trust"]
    rds.reload()
    try:
        eventually(lambda: trusted(rds), what="the server's trust")
        error = log_in(proxy, token_for(front))
        assert error["C"] == "28P01"
        assert error["M"].startswith("The IAM authentication failed for the role orders.")
        assert 'REASON: not-checked: the server let the proxy in as "orders" without asking' in proxy.log
        eventually(lambda: not proxy.server_pids(), what="the end of the server connection")
    finally:
        rds.hba = [*HBA]
        rds.reload()
        eventually(lambda: not trusted(rds), what="the end of the server's trust")


def trusted(rds: EmbeddedPostgres) -> bool:
    try:
        psycopg.connect(**rds.parameters(user="orders", password="no token", dbname="shop")).close()
    except psycopg.OperationalError:
        return False
    return True


def test_one_token_at_once_is_tried_once(start: StartRdsProxy, rds: EmbeddedPostgres, front: TLSRelay) -> None:
    proxy = start()
    token = accept(rds, token_for(front))
    together = threading.Barrier(12)

    def client(_: int) -> dict[str, str]:
        together.wait(30)
        return log_in(proxy, token)

    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(client, range(12))) == [{}] * 12
    eventually(lambda: front.handshakes == 2, what="one login for all of them, and a control connection")


def test_tokens_beyond_the_rate_wait_and_are_not_called_wrong(
    start: StartRdsProxy, rds: EmbeddedPostgres, front: TLSRelay
) -> None:
    proxy = start(iam={"rds_logins_per_second": 1}, client_login_timeout=6)
    accept(rds, token_for(front))
    before = front.handshakes
    tokens = [token_for(front) for _ in range(12)]
    with ThreadPoolExecutor(12) as threads:
        states = [error["C"] for error in threads.map(lambda token: log_in(proxy, token), tokens)]
    assert set(states) == {"28P01", "57P03"}
    # One may have had its turn when its time was over.
    assert states.count("28P01") <= front.handshakes - before < len(tokens)
    assert "rds_logins_per_second" in proxy.log


def test_made_up_tokens_from_one_address_do_not_keep_others_waiting(
    start: StartRdsProxy, rds: EmbeddedPostgres, front: TLSRelay
) -> None:
    proxy = start(iam={"rds_logins_per_second": 1}, failed_logins_per_minute=0, client_login_timeout=60)
    token = accept(rds, token_for(front))
    with ThreadPoolExecutor(20) as threads:
        made_up = [threads.submit(log_in, proxy, token_for(front)) for _ in range(20)]
        eventually(lambda: any(each.done() for each in made_up), what="the first one's turn")
        assert log_in(proxy, token, source="127.0.0.2") == {}
        assert sum(not each.done() for each in made_up) > 10, "they wait, and are not tried before it"
        proxy.stop(signal.SIGINT)


def test_what_fails_by_the_limit_meanwhile_takes_no_turn(
    start: StartRdsProxy, rds: EmbeddedPostgres, front: TLSRelay
) -> None:
    proxy = start(iam={"rds_logins_per_second": 1}, failed_logins_per_minute=3, client_login_timeout=60)
    accept(rds, token_for(front))
    tokens = [token_for(front) for _ in range(12)]
    with ThreadPoolExecutor(12) as threads:
        states = {error["C"] for error in threads.map(lambda token: log_in(proxy, token), tokens)}
    assert states == {"28P01"}
    tried = proxy.log.count("REASON: refused-by-server")
    # Three at first; one more in each 20 s that this takes.
    assert 3 <= tried < 12
    assert proxy.log.count("REASON: limit: too many failed before it (failed_logins_per_minute)") == 12 - tried


def test_a_server_that_is_away_is_no_wrong_token(start: StartRdsProxy, rds: EmbeddedPostgres, front: TLSRelay) -> None:
    proxy = start(client_login_timeout=10)
    token = accept(rds, token_for(front))
    rds.stop()
    try:
        assert log_in(proxy, token)["C"][:2] in ("08", "57")
    finally:
        rds.start()
    assert log_in(proxy, token) == {}


def test_when_a_token_has_expired_its_server_connection_stays_and_a_new_one_needs_a_new_token(
    start: StartRdsProxy, rds: EmbeddedPostgres, front: TLSRelay
) -> None:
    proxy = start(connection_borrow_timeout=30)
    token = accept(rds, token_for(front, age=890))
    with proxy.connect(sslmode="require", password=token) as conn:
        eventually(lambda: log_in(proxy, token).get("C") == "28P01", what="the token's end")
        assert conn.execute("SELECT current_user").fetchone() == ("orders",)
        with rds.connect() as admin:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'orders'")
        eventually(lambda: not proxy.server_pids(), what="the server connections' end")
        refusal = ("28000", "the proxy has no valid RDS token of a client")

        def refused() -> bool:
            with pytest.raises(psycopg.Error) as caught:
                conn.execute("SELECT 1")
            # A statement that is on its way while its server connection is ended fails with that.
            assert caught.value.sqlstate in ("57P01", refusal[0])
            return caught.value.sqlstate == refusal[0] and refusal[1] in str(caught.value)

        eventually(refused, what="the refusal")
        assert log_in(proxy, accept(rds, token_for(front))) == {}
        assert conn.execute("SELECT current_user").fetchone() == ("orders",)


def test_where_the_proxy_logs_in_as_somebody_else_the_token_only_proves_who_the_client_is(
    start: StartRdsProxy, rds: EmbeddedPostgres, front: TLSRelay
) -> None:
    rds.create_user("shared", "password-of-shared")
    try:
        proxy = start(target={"user": "shared", "password": "password-of-shared"})
        token = accept(rds, token_for(front))
        with proxy.connect(sslmode="require", password=token) as conn:
            assert conn.execute("SELECT current_user").fetchone() == ("shared",)
        assert proxy.server_pids() == set(), "none of the client's own user"
        proxy.stop()
    finally:
        with rds.connect() as conn:
            conn.execute("DROP ROLE shared")


def test_without_tls_a_token_is_not_asked_for(start: StartRdsProxy) -> None:
    proxy = start(client_tls="allow")
    with pytest.raises(Exception, match="IAM is allowed only with SSL connections"):
        proxy.connect(sslmode="disable", password="irrelevant")
