"""Users that nobody has configured: the database itself is asked, by `auth_query`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.proxy.identity.conftest import Secrets, Serve, refusal, set_password
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually
from tests.support.rawclient import RawClient

from tidegate_load.postgres import free_port
from tidegate_proxy.core.statements import InternalQuery
from tidegate_proxy.identity import auth_query
from tidegate_proxy.identity.auth_query import AuthQuery
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.scram import ScramVerifier
from tidegate_proxy.protocol.scram_client import ScramClientExchange

Role = Callable[..., str]


@pytest.fixture
def asking(serve: Serve, database: Database) -> Callable[..., ProxyProcess]:
    """A proxy that knows nobody, and asks as PostgreSQL's superuser."""

    def start(database_settings: dict[str, Any] | None = None, **settings: Any) -> ProxyProcess:
        auth = {"auth_user": database.server.superuser, "auth_password": database.server.password}
        return serve(databases={database.name: auth | (database_settings or {})}, **settings)

    return start


def salt_of(proxy: ProxyProcess, user: str) -> tuple[bytes, bytes]:
    """What a client learns before it proves anything: salt and iterations."""
    parameters = proxy.parameters | {"user": user}
    with RawClient(parameters, login=False) as client:
        client.send(encode.startup_message({"user": user, "database": parameters["dbname"]}))
        client.read()
        client.send(encode.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=abc"))
        _, _, rest = client.read()[1].partition(b",s=")
    salt, _, iterations = rest.partition(b",i=")
    return salt, iterations


def test_a_user_of_the_database_logs_in_and_is_itself_there(
    asking: Callable[..., ProxyProcess], database: Database
) -> None:
    with asking().connect() as conn:
        # No password is configured anywhere: the proxy logs in with the key that the client's own login has shown.
        assert conn.execute("SELECT session_user").fetchone() == (database.user,)


@pytest.mark.parametrize("way", ["auth_password_file", "auth_secret"])
def test_the_password_of_who_looks_up_comes_from_a_file_or_a_secret(
    serve: Serve, database: Database, secrets: Secrets, tmp_path: Path, way: str
) -> None:
    server = database.server
    if way == "auth_password_file":
        path = tmp_path / "password"
        path.write_text(f"{server.password}\n")
        where = str(path)
    else:
        where = secrets.create({"username": server.superuser, "password": server.password})
    proxy = serve(databases={database.name: {"auth_user": server.superuser, way: where}}, hidden={server.password})
    with proxy.connect() as conn:
        assert conn.execute("SELECT session_user").fetchone() == (database.user,)


def test_users_are_looked_up_in_another_database_if_that_is_said(
    asking: Callable[..., ProxyProcess], database: Database
) -> None:
    proxy = asking(
        {"auth_dbname": "postgres"},
        # As long as this is asked elsewhere, nobody is there.
        auth_query="SELECT usename, passwd FROM pg_shadow WHERE usename = $1 AND current_database() = 'postgres'",
    )
    with proxy.connect() as conn:
        assert conn.execute("SELECT session_user, current_database()").fetchone() == (database.user, database.name)


def test_a_user_with_a_cleartext_password_logs_in_too(database: Database, asking: Callable[..., ProxyProcess]) -> None:
    proxy = asking(client_tls="allow", client_tls_self_signed=True, client_auth="password")
    with proxy.connect(sslmode="require") as conn:
        assert conn.execute("SELECT session_user").fetchone() == (database.user,)
    assert f'password authentication failed for user "{database.user}"' in refusal(
        proxy, sslmode="require", password="wrong"
    )


def test_wrong_passwords_expired_ones_and_unknown_users_look_the_same(
    asking: Callable[..., ProxyProcess], database: Database, role: Role
) -> None:
    expired = role("expired", "LOGIN VALID UNTIL '2001-01-01'")
    locked = role("locked", "NOLOGIN")
    proxy = asking()
    cases = [(database.user, "wrong"), (expired, "expired"), (locked, "locked"), ("nobody", "x"), ("o'\\x; --", "x")]
    texts = {refusal(proxy, user=user, password=password).replace(user, "?") for user, password in cases}
    assert len(texts) == 1, texts
    assert 'FATAL:  password authentication failed for user "?"' in texts.pop()
    for user, _ in cases:
        assert salt_of(proxy, user) == salt_of(proxy, user)
        assert salt_of(proxy, user)[1] == b"4096"


def test_unknown_users_have_the_same_salt_at_every_proxy_that_shares_the_secret(
    asking: Callable[..., ProxyProcess],
) -> None:
    proxies = [asking(scram_mock_secret=text) for text in ("one secret of sixteen", "one secret of sixteen")]
    assert salt_of(proxies[0], "nobody") == salt_of(proxies[1], "nobody")


def test_a_changed_password_is_seen_with_the_next_login_though_the_old_answer_is_kept(
    asking: Callable[..., ProxyProcess], database: Database, role: Role
) -> None:
    user = role("before")
    proxy = asking(auth_query_cache=3600)
    with proxy.connect(user=user, password="before") as conn:
        set_password(database, user, "afterwards")

        def logs_in() -> bool:
            try:
                with proxy.connect(user=user, password="afterwards") as other:
                    return other.execute("SELECT session_user").fetchone() == (user,)
            except psycopg.OperationalError:
                return False

        eventually(logs_in, what="the login with the new password")
        assert "password authentication failed" in refusal(proxy, user=user, password="before")
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_an_older_password_that_a_client_shows_late_does_not_replace_the_one_that_works(
    asking: Callable[..., ProxyProcess], database: Database, role: Role
) -> None:
    user = role("old password")
    proxy = asking(default_pool_size=1, auth_query_cache=0)
    with RawClient(proxy.parameters, login=False) as late:
        late.send(encode.startup_message({"user": user, "database": database.name}))
        late.read()
        exchange = ScramClientExchange("old password", ["SCRAM-SHA-256"], None)
        late.send(encode.sasl_initial_response(*exchange.first()))
        challenge = late.read()[1]
        set_password(database, user, "new password")
        with proxy.connect(user=user, password="new password") as conn:
            conn.execute("SELECT 1")
            # It was right when it began.
            late.send(encode.sasl_response(exchange.response(challenge[4:])))
            assert late.kinds_until().endswith("Z")
            with database.server.connect() as admin:
                admin.execute(
                    "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE usename = %s", [user]
                )
            eventually(lambda: works(conn), what="new server connections, with the new password")
            with database.server.connect() as admin:
                admin.execute(
                    "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE usename = %s", [user]
                )
            set_password(database, user, "third password")
            with proxy.connect(user=user, password="third password") as newest:
                assert newest.execute("SELECT 1").fetchone() == (1,)


def works(conn: psycopg.Connection[Any]) -> bool:
    """Whether a statement succeeds; one may be lost together with its server connection, but none is refused."""
    try:
        conn.execute("SELECT 1")
    except psycopg.Error as error:
        if (error.sqlstate or "")[:2] not in ("08", "57"):
            raise
        return False
    return True


def test_an_md5_hash_is_explained_in_the_log_and_not_to_the_client(
    asking: Callable[..., ProxyProcess], role: Role
) -> None:
    user = role("md5" + "0" * 32)
    proxy = asking()
    proxy.allowed_in_log.append(" ERROR ")
    assert "password authentication failed" in refusal(proxy, user=user, password="x")
    assert re.search(f'user "{user}" cannot log in: the server keeps an MD5 hash.*password_encryption', proxy.log)


def test_no_search_path_leads_the_question_astray(
    asking: Callable[..., ProxyProcess], database: Database, role: Role
) -> None:
    other = role("password of another")
    with database.server.connect(dbname=database.name) as conn:
        conn.execute("CREATE SCHEMA evil")
        conn.execute(
            "CREATE FUNCTION evil.same(name, text) RETURNS bool LANGUAGE sql AS $$ SELECT true $$;"
            "CREATE OPERATOR evil.= (leftarg = name, rightarg = text, function = evil.same);"
        )
        conn.execute(f'ALTER DATABASE "{database.name}" SET search_path = evil, pg_catalog')
    proxy = asking()
    with proxy.connect() as conn:
        assert conn.execute("SELECT session_user").fetchone() == (database.user,)
    assert "password authentication failed" in refusal(proxy, user=database.user, password="password of another")
    assert other not in proxy.log


def test_a_query_of_ones_own_is_asked_once_for_many_logins(
    asking: Callable[..., ProxyProcess], database: Database
) -> None:
    with database.server.connect(dbname=database.name) as conn:
        conn.execute(
            "CREATE SCHEMA lookup; CREATE SEQUENCE lookup.asked;"
            "CREATE FUNCTION lookup.verifier(who text) RETURNS text SECURITY DEFINER LANGUAGE sql AS $$"
            " SELECT nextval('lookup.asked'); SELECT rolpassword FROM pg_authid WHERE rolname = who $$;"
        )
    proxy = asking(auth_query="SELECT lookup.verifier($1)", auth_query_cache=3600)

    def log_in(_: int) -> None:
        with proxy.connect() as conn:
            conn.execute("SELECT 1")

    with ThreadPoolExecutor(10) as threads:
        list(threads.map(log_in, range(30)))
    with database.server.connect(dbname=database.name) as conn:
        assert conn.execute("SELECT last_value FROM lookup.asked").fetchone() == (1,)


def test_while_the_database_cannot_be_asked_nobody_is_told_that_a_password_is_wrong(
    serve: Serve, database: Database
) -> None:
    proxy = serve(
        databases={database.name: {"port": free_port(), "auth_user": "lookup", "auth_password": "x"}},
        users={"configured": {"password": "right"}},
        check_targets=False,
    )
    proxy.allowed_in_log.append(" ERROR ")
    texts = {refusal(proxy, user=user, password="x").replace(user, "?") for user in ("nobody", "configured")}
    assert len(texts) == 1, texts
    assert 'the password of user "?" cannot be checked at present' in texts.pop()


def test_while_the_database_cannot_be_asked_an_old_answer_is_not_good_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look() -> None:
        verifier = ScramVerifier.from_password("s3cret", salt=bytes(16))

        async def answer(_: str) -> InternalQuery:
            found = InternalQuery(lambda _: None)
            found.rows = [[b"", b"4096"], [str(verifier).encode()]]
            return found

        query = AuthQuery("app", "SELECT $1", 0, answer)
        assert query.known("orders") is None
        assert await query.verifier("orders") == verifier
        assert query.known("orders") == verifier
        monkeypatch.setattr(auth_query, "USABLE", 0.0)
        assert query.known("orders") is None

    asyncio.run(look())


def test_a_wrong_authentication_user_is_named_in_the_log(serve: Serve, database: Database) -> None:
    proxy = serve(databases={database.name: {"auth_user": "nobody_at_all", "auth_password": "x"}})
    proxy.allowed_in_log.append(" ERROR ")
    refusal(proxy)
    assert re.search(f'databases.{database.name}: auth_query failed: .*"nobody_at_all"', proxy.log)


def test_a_query_that_fails_by_its_data_tells_nobody_that_there_is_no_such_user(
    asking: Callable[..., ProxyProcess],
) -> None:
    proxy = asking(auth_query="SELECT usename, (1 / 0)::text FROM pg_shadow WHERE usename = $1")
    proxy.allowed_in_log.append(" ERROR ")
    assert "cannot be checked at present" in refusal(proxy)
    assert "auth_query failed: division by zero" in proxy.log
