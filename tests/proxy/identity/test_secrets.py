"""Passwords out of Secrets Manager, for servers and for clients: read, rotated under load, wrong in every way."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psycopg
import pytest
from tests.proxy.console.helpers import show
from tests.proxy.identity.conftest import REGION, Secrets, Serve, refusal, set_password
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually

from tidegate_proxy.credentials import secret
from tidegate_proxy.credentials.aws import Aws, AwsError, SecretValue

Role = Callable[..., str]


class Load:
    """Clients that keep their connections and run one transaction after another."""

    def __init__(self, proxy: ProxyProcess, count: int, **keywords: Any) -> None:
        self.errors: list[BaseException] = []
        self.transactions = 0
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(proxy, keywords)) for _ in range(count)]

    def _run(self, proxy: ProxyProcess, keywords: dict[str, Any]) -> None:
        try:
            with proxy.connect(autocommit=False, **keywords) as conn:
                while not self._end.is_set():
                    with conn.transaction():
                        conn.execute("SELECT 1")
                    self.transactions += 1
        except BaseException as error:
            self.errors.append(error)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def goes_on(self) -> None:
        """Wait for some more transactions."""
        goal = self.transactions + 50
        eventually(lambda: self.errors or self.transactions > goal, timeout=60, what="more transactions")


def sessions_since(database: Database, user: str, moment: Any) -> int:
    with database.server.connect() as conn:
        row = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND backend_start > %s", [user, moment]
        ).fetchone()
    assert row is not None
    return int(row[0])


def now(database: Database) -> Any:
    with database.server.connect() as conn:
        row = conn.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    return row[0]


def test_a_rotation_under_load_disconnects_nobody_and_fails_no_transaction(
    serve: Serve, secrets: Secrets, database: Database, role: Role
) -> None:
    old, new, newest = (secrets.password() for _ in range(3))
    app = role(old)
    arn = secrets.create({"username": app, "password": old, "engine": "postgres", "host": "db", "port": 5432})
    proxy = serve(
        databases={database.name: {"secret": arn}},
        users={database.user: {"password": database.password}},
        hidden=secrets.passwords,
        default_pool_size=4,
        server_lifetime=0.5,  # so that there are new server connections in every phase
    )

    def new_sessions(load: Load) -> None:
        since = now(database)
        eventually(lambda: load.errors or sessions_since(database, app, since), timeout=60, what="a new session")
        load.goes_on()

    with Load(proxy, 8) as load:
        new_sessions(load)
        # The four steps of a rotation by Secrets Manager.
        version = secrets.put(arn, {"username": app, "password": new}, "AWSPENDING")
        new_sessions(load)
        set_password(database, app, new)
        new_sessions(load)
        secrets.finish(arn, version)
        new_sessions(load)
        # By hand: the database first, and the secret somewhat later.
        set_password(database, app, newest)
        version = secrets.put(arn, {"username": app, "password": newest}, "AWSPENDING")
        secrets.finish(arn, version)
        new_sessions(load)
    assert load.errors == [], proxy.log


def test_a_secret_that_is_ahead_of_the_server_does_no_harm(
    serve: Serve, secrets: Secrets, database: Database, role: Role
) -> None:
    old, new = secrets.password(), secrets.password()
    app = role(old)
    arn = secrets.create({"username": app, "password": old})
    secrets.put(arn, {"username": app, "password": new})  # the old one is now AWSPREVIOUS
    proxy = serve(
        databases={database.name: {"secret": arn}},
        users={database.user: {"password": database.password}},
        hidden=secrets.passwords,
    )
    with proxy.connect() as conn:
        assert conn.execute("SELECT session_user").fetchone() == (app,)


def test_at_the_most_talkative_level_no_secret_is_logged(
    serve: Serve, secrets: Secrets, database: Database, role: Role
) -> None:
    """AWS's library logs whole answers then, and passwords are in them."""
    password = secrets.password()
    arn = secrets.create({"username": role(password), "password": password})
    proxy = serve(
        databases={database.name: {"secret": arn}},
        users={database.user: {"password": database.password}},
        hidden=secrets.passwords,
        log_level="debug",
    )
    with proxy.connect() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_clients_log_in_with_the_password_of_their_secret_before_and_after_its_rotation(
    serve: Serve, secrets: Secrets, database: Database, role: Role
) -> None:
    old, new = secrets.password(), secrets.password()
    app = role(old)
    arn = secrets.create({"username": app, "password": old})
    proxy = serve(users={app: {"secret": arn}}, hidden=secrets.passwords, secret_refresh=1)
    with proxy.connect(user=app, password=old) as conn:
        version = secrets.put(arn, {"username": app, "password": new}, "AWSPENDING")
        set_password(database, app, new)
        # Whoever still reads AWSCURRENT, and whoever knows the new one already.
        for password in (old, new):

            def logs_in(password: str = password) -> bool:
                with contextlib.suppress(psycopg.OperationalError), proxy.connect(user=app, password=password) as other:
                    return other.execute("SELECT session_user").fetchone() == (app,)
                return False

            eventually(logs_in, what="the login during the rotation")
        secrets.finish(arn, version)
        eventually(
            lambda: (
                "password authentication failed" in _outcome(proxy, user=app, password=old)
                and _outcome(proxy, user=app, password=new) == ""
            ),
            what="the old password's end",
        )
        assert conn.execute("SELECT 1").fetchone() == (1,)


def _outcome(proxy: ProxyProcess, **keywords: Any) -> str:
    try:
        proxy.connect(**keywords).close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""


WRONG = {
    "no JSON": ("pa$$word", "is not JSON"),
    "no object": ('["app"]', "is not a JSON object"),
    "no password": ('{"username": "app"}', 'has no text in "password"'),
    "a number as password": ('{"username": "app", "password": 5}', 'has no text in "password"'),
    "a list as user": ('{"username": [], "password": "x"}', 'something else than a name in "username"'),
    "no user": ('{"password": "x"}', 'names no "username"'),
    "half a character": ('{"username": "app", "password": "abc\\ud83d"}', "no character of Unicode"),
    "MySQL": ('{"username": "app", "password": "x", "engine": "mysql"}', "another engine than PostgreSQL"),
}


def test_a_secret_of_a_wrong_shape_is_named_the_rest_is_served_and_a_right_one_is_seen(
    serve: Serve, secrets: Secrets, database: Database
) -> None:
    arns = {case: secrets.create(text) for case, (text, _) in WRONG.items()}
    missing = f"arn:aws:secretsmanager:{REGION}:123456789012:secret:test/missing-AbCdEf"
    tables = {f"db {case}": {"secret": arn, "dbname": database.name} for case, arn in arns.items()}
    proxy = serve(
        databases={database.name: {}, "missing": {"secret": missing}, **tables},
        users={database.user: {"password": database.password}},
        secret_refresh=1,
        admin_users=[database.user],
    )
    proxy.allowed_in_log.append(" ERROR ")
    with proxy.connect() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    for case, (_, words) in WRONG.items():
        assert "FATAL:  this proxy has no credentials for the" in refusal(proxy, dbname=f"db {case}")
        assert re.search(f'secret "{re.escape(arns[case])}" .*{re.escape(words)}', proxy.log), case
    assert "no credentials" in refusal(proxy, dbname="missing")
    assert re.search(f'secret "{re.escape(missing)}" does not exist in its region.*correct its name', proxy.log)
    # Since one database's password is right.
    eventually(lambda: show(proxy, "TARGETS")[0]["state"] == "AVAILABLE", what="the target's state")
    told = [words for _, words in WRONG.values()] + [missing]
    eventually(
        lambda: all(words in (show(proxy, "TARGETS")[0]["description"] or "") for words in told),
        what="the target's description",
    )

    secrets.put(arns["no JSON"], {"username": database.user, "password": database.password})

    def works() -> bool:
        return _outcome(proxy, dbname="db no JSON") == ""

    eventually(works, timeout=60, what="the corrected secret")
    eventually(
        lambda: arns["no JSON"] not in (show(proxy, "TARGETS")[0]["description"] or ""), what="the description's end"
    )


def test_a_wrong_password_in_the_configuration_is_in_target_health(serve: Serve, database: Database) -> None:
    proxy = serve(
        databases={database.name: {"user": database.user, "password": "not-the-password"}},
        users={database.user: {"password": database.password}},
        hidden={"not-the-password"},
        admin_users=[database.user],
    )
    target = eventually(lambda: [row for row in show(proxy, "TARGETS") if row["state"] != "REGISTERING"])[0]
    assert (target["state"], target["reason"]) == ("UNAVAILABLE", "AUTH_FAILURE")
    words = f'the server refuses user "{database.user}" with the configured password: password authentication failed'
    assert target["description"].startswith(words)
    assert target["description"].endswith(": correct it in the configuration, or set it on the server")


def test_a_target_with_a_secret_that_cannot_be_used_is_unavailable_before_any_client_comes(
    serve: Serve, secrets: Secrets, database: Database, role: Role
) -> None:
    password = secrets.password()
    app = role(password)
    arn = secrets.create({"username": app})
    proxy = serve(
        databases={database.name: {"secret": arn}},
        users={database.user: {"password": database.password}},
        hidden=secrets.passwords,
        secret_refresh=1,
        admin_users=[database.user],
    )
    proxy.allowed_in_log.append(" ERROR ")
    target = eventually(lambda: [row for row in show(proxy, "TARGETS") if row["state"] != "REGISTERING"])[0]
    assert (target["state"], target["reason"]) == ("UNAVAILABLE", "AUTH_FAILURE")
    assert target["description"].startswith(f'secret "{arn}" has no text in "password": it must be JSON such as')

    secrets.put(arn, {"username": app, "password": secrets.password()})
    words = f'the server refuses every version of secret "{arn}": password authentication failed for user "{app}": set'
    eventually(lambda: words in (show(proxy, "TARGETS")[0]["description"] or ""), timeout=60, what="the refusal")
    assert show(proxy, "TARGETS")[0]["reason"] == "AUTH_FAILURE"

    secrets.put(arn, {"username": app, "password": password})
    eventually(lambda: show(proxy, "TARGETS")[0]["state"] == "AVAILABLE", timeout=60, what="the recovery")
    assert show(proxy, "TARGETS")[0]["description"] is None


def test_a_secret_that_is_deleted_under_the_proxy_ends_nothing_is_said_and_may_come_back(
    serve: Serve, secrets: Secrets, database: Database, role: Role
) -> None:
    old, new = secrets.password(), secrets.password()
    app = role(old)
    arn = secrets.create({"username": app, "password": old})
    proxy = serve(
        databases={database.name: {"secret": arn}},
        users={database.user: {"password": database.password}},
        hidden=secrets.passwords,
        secret_refresh=0.5,
        connection_borrow_timeout=60,  # longer than a newer password is waited for
        admin_users=[database.user],
    )
    proxy.allowed_in_log.append(" ERROR ")
    with proxy.connect(autocommit=False) as holder, proxy.connect() as other:
        holder.execute("CREATE TEMP TABLE kept_by_holder ()")
        secrets.client.delete_secret(SecretId=arn, RecoveryWindowInDays=7)
        said = f'secret "{arn}": Secrets Manager refuses it: InvalidRequestException: it is marked for deletion'
        eventually(lambda: said in proxy.log, what="the log line")
        assert "restore it or give it one; what was read before stays in use" in proxy.log
        assert other.execute("SELECT session_user").fetchone() == (app,), "with the password that was read before"

        set_password(database, app, new)
        with database.server.connect() as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s AND state = 'idle'", [app]
            )
        refusal = f'password authentication failed for user "{app}"'
        # A statement that is on its way while its server connection is ended fails with that, not with the refusal.
        refused = eventually(
            lambda: next((said for said in [error_of(other)] if refusal in said), None), timeout=60, what="the refusal"
        )
        assert arn not in refused
        words = f"there may be a newer one, which cannot be read: {said}"
        assert words in proxy.log
        assert words in show(proxy, "TARGETS")[0]["description"]
        holder.execute("SELECT FROM kept_by_holder")  # a server connection that is there stays

        secrets.client.restore_secret(SecretId=arn)
        secrets.put(arn, {"username": app, "password": new})
        eventually(lambda: not error_of(other), timeout=90, what="the recovery")
        assert f'secret "{arn}" can be read again' in proxy.log


def error_of(conn: psycopg.Connection[Any]) -> str:
    """What a statement fails with; nothing when it does not."""
    try:
        conn.execute("SELECT 1")
    except psycopg.Error as error:
        return str(error)
    return ""


@pytest.fixture
def refusing(aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Secrets Manager that allows nothing, in AWS's words."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.dumps(
                {"__type": "AccessDeniedException", "Message": "User: arn:... is not authorized"}
            ).encode()
            self.send_response(400)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", f"http://127.0.0.1:{server.server_address[1]}")
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_missing_permission_is_named_with_its_remedy_and_only_in_the_log(
    serve: Serve, database: Database, refusing: None
) -> None:
    proxy = serve(databases={"locked": {"secret": "shop/db"}}, users={database.user: {"password": database.password}})
    proxy.allowed_in_log.append(" ERROR ")
    text = refusal(proxy, dbname="locked")
    assert "this proxy has no credentials for the database's role" in text
    assert "Check the credentials for this role and try again." in text
    assert "shop/db" not in text
    words = 'secret "shop/db": Secrets Manager refuses it: AccessDeniedException: allow .*secretsmanager:GetSecretValue'
    assert re.search(words, proxy.log)


def test_without_a_region_the_remedy_is_named(
    serve: Serve, database: Database, aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    proxy = serve(databases={"app": {"secret": "shop/db"}})
    proxy.allowed_in_log.append(" ERROR ")
    eventually(lambda: "no AWS region is known: set aws_region" in proxy.log, what="the log line")


def test_a_user_whose_secret_cannot_be_read_is_not_told_that_its_password_is_wrong(
    serve: Serve, database: Database, refusing: None
) -> None:
    proxy = serve(users={"app": {"secret": "shop/db"}, "other": {"password": "x"}})
    proxy.allowed_in_log.append(" ERROR ")
    texts = {refusal(proxy, user=user, password="y").replace(user, "?") for user in ("app", "other", "nobody")}
    assert len(texts) == 1, texts
    assert 'the password of user "?" cannot be checked at present' in texts.pop()


def test_the_process_ends_though_aws_does_not_answer(
    serve: Serve, database: Database, aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", f"http://127.0.0.1:{silent.getsockname()[1]}")
        proxy = serve(databases={database.name: {"secret": "shop/db"}})
        silent.settimeout(60)
        silent.accept()[0].close()
        began = time.monotonic()
        assert proxy.stop(timeout=60) == 0
        assert time.monotonic() - began < 60


class FailingAws(Aws):
    """Secrets Manager that refuses every read."""

    def __init__(self) -> None:
        super().__init__(REGION)
        self.asked = 0

    async def secret_values(self, secret: str, stages: Iterable[str]) -> dict[str, SecretValue]:
        self.asked += 1
        raise AwsError(f"{secret} cannot be read")


def test_failed_logins_do_not_have_a_secret_read_that_was_not_readable_just_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(secret, "SHORTEST_INTERVAL", 0.0)
    for pause in ("_FIRST_RETRY", "_LONGEST_RETRY"):
        monkeypatch.setattr(secret, pause, 3600.0)

    async def log_in() -> None:
        aws = FailingAws()
        kept = secret.Secret("app", aws, 3600)
        for _ in range(5):
            assert await kept.newer_than(asyncio.get_running_loop().time()) == ()
        assert aws.asked == 1

    asyncio.run(log_in())
