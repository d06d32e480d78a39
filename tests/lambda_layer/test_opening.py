"""Opening: within the deadline, again while it makes sense, and not at all where it does not."""

from __future__ import annotations

import contextlib
import logging
import shutil
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import trustme
from tests.lambda_layer.helpers import (
    Context,
    TlsFront,
    Translator,
    backend_of,
    connected,
    full_port,
    silent_port,
    terminate,
)
from tests.support.postgres import Database
from tests.support.relay import Relay

import tidegate
from tidegate.retry import LONGEST_PAUSE, connect_may_succeed_later, pause_before
from tidegate_load.postgres import EmbeddedPostgres


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A small server that a test may stop, fill and reconfigure."""
    settings = {"max_connections": "5", "superuser_reserved_connections": "1", "reserved_connections": "0"}
    with EmbeddedPostgres("18", settings=settings) as server:
        server.create_user("orders", "right")
        yield server


def own_database(server: EmbeddedPostgres) -> Database:
    return Database(server, "postgres", "orders", "right")


@pytest.mark.parametrize("how", ["restart", "crash"])
def test_a_server_restarted_between_invocations_is_not_noticed(own_postgres: EmbeddedPostgres, how: str) -> None:
    with connected(own_database(own_postgres)) as db:

        @db.handler
        def handler(event: object, context: object) -> object:
            with db.connection() as conn:
                return conn.execute("SELECT 1").fetchone()

        assert handler({}, Context()) == (1,)
        if how == "restart":
            own_postgres.restart()
        else:
            own_postgres.kill()
            own_postgres.start()
        assert handler({}, Context()) == (1,)


def test_a_connection_that_was_terminated_while_idle_is_replaced_before_the_handler_sees_it(
    database: Database,
) -> None:
    with connected(database) as db:
        pid = backend_of(db)
        terminate(database, pid)
        assert backend_of(db) != pid


@pytest.mark.parametrize("how", ["reset_all", "close_all"])
def test_a_connection_that_the_network_ended_while_idle_is_replaced(
    database: Database, relay_to: Callable[[int], Relay], how: str
) -> None:
    relay = relay_to(database.server.port)
    with connected(database, port=relay.port) as db:
        pid = backend_of(db)
        getattr(relay, how)()
        assert backend_of(db) != pid


def test_a_connection_lost_without_a_word_is_found_by_the_ping(
    database: Database, relay_to: Callable[[int], Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.core.PING_TIMEOUT", 0.2)
    relay = relay_to(database.server.port)
    with connected(database, port=relay.port, idle_check=0, connect_timeout=0.3) as db:
        pid = backend_of(db)
        relay.black_hole()
        with pytest.raises(tidegate.DeadlineExceeded), db.invocation(Context(1.5)):
            backend_of(db)
        relay.resume()
        assert backend_of(db) != pid


def test_unreachable_at_init_does_not_fail_init_and_the_first_invocation_connects(
    own_postgres: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    own_postgres.stop()
    with connected(own_database(own_postgres)) as db:
        assert [(r.name, r.levelno) for r in caplog.records] == [("tidegate", logging.WARNING)]
        assert "no connection at INIT" in caplog.text
        own_postgres.start()
        with db.invocation(Context()):
            assert backend_of(db)


def test_a_server_that_comes_up_during_the_invocation_is_waited_for(
    own_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_postgres.stop()
    with connected(own_database(own_postgres)) as db:
        refusals: list[str] = []

        def classify(sqlstate: str | None, message: str) -> bool:
            refusals.append(message)
            if len(refusals) == 2:
                own_postgres.start()
            return connect_may_succeed_later(sqlstate, message)

        monkeypatch.setattr("tidegate.opening.connect_may_succeed_later", classify)
        with db.invocation(Context()):
            assert backend_of(db)
        assert len(refusals) >= 2


def test_too_many_connections_is_retried_until_one_is_freed(
    own_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:
        holders = [
            stack.enter_context(psycopg.connect(**own_postgres.parameters(user="orders", password="right")))
            for _ in range(4)
        ]
        db = stack.enter_context(connected(own_database(own_postgres)))
        refusals: list[str | None] = []

        def classify(sqlstate: str | None, message: str) -> bool:
            refusals.append(sqlstate)
            if len(refusals) == 3:
                holders[0].close()
            return connect_may_succeed_later(sqlstate, message)

        monkeypatch.setattr("tidegate.opening.connect_may_succeed_later", classify)
        with db.invocation(Context()):
            assert backend_of(db)
        assert set(refusals) == {"53300"}


def test_too_many_connections_until_the_deadline_is_a_deadline_error_that_says_why(
    own_postgres: EmbeddedPostgres,
) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(psycopg.connect(**own_postgres.parameters(user="orders", password="right")))
        db = stack.enter_context(connected(own_database(own_postgres), retry_attempts=1000, retry_burst=1000))
        with pytest.raises(tidegate.DeadlineExceeded, match="FATAL") as caught, db.invocation(Context(4.0)):
            backend_of(db)
        assert isinstance(caught.value.__cause__, psycopg.OperationalError)
        assert caught.value.__cause__.sqlstate == "53300"


@pytest.mark.parametrize("place", [silent_port, full_port])
def test_an_address_that_never_answers_ends_in_a_deadline_error(
    database: Database, place: Callable[[], contextlib.AbstractContextManager[int]]
) -> None:
    with (
        place() as port,
        connected(database, port=port, init_timeout=0.1) as db,
        pytest.raises(tidegate.DeadlineExceeded, match=str(port)),
        db.invocation(Context(1.0)),
    ):
        backend_of(db)


def test_a_name_that_no_host_can_have_is_an_error_at_once_that_names_the_variable() -> None:
    with pytest.raises(tidegate.ConfigurationError, match=r"db\.\.example.*TIDEGATE_HOST"):
        tidegate.connect(host="db..example", dbname="shop", user="orders", sslmode="disable")


def test_no_attempt_is_made_after_the_deadline(database: Database, relay_to: Callable[[int], Relay]) -> None:
    relay = relay_to(database.server.port)
    with connected(database, port=relay.port) as db:
        db.close()
        seen = relay.accepted
        with pytest.raises(tidegate.DeadlineExceeded, match="passed already"), db.invocation(Context(0)):
            backend_of(db)
        assert relay.accepted == seen


def test_a_connection_that_is_there_is_used_even_close_to_the_deadline(database: Database) -> None:
    with connected(database) as db, db.invocation(Context(0)):
        assert backend_of(db)


@pytest.mark.parametrize(
    ("wrong", "sqlstate"),
    [({"password": "wrong"}, "28P01"), ({"user": "nobody_here"}, "28P01"), ({"dbname": "no_such_database"}, "3D000")],
)
def test_what_another_attempt_would_not_cure_is_tried_once_and_raised_as_psycopg_says_it(
    database: Database, relay_to: Callable[[int], Relay], wrong: dict[str, str], sqlstate: str
) -> None:
    relay = relay_to(database.server.port)
    with connected(database, port=relay.port, **wrong) as db:
        seen = relay.accepted
        with pytest.raises(psycopg.OperationalError, match="FATAL") as caught, db.invocation(Context()):
            backend_of(db)
        assert not isinstance(caught.value, tidegate.TidegateError)
        assert caught.value.sqlstate == sqlstate
        assert relay.accepted == seen + 1


def test_no_password_where_one_is_needed_is_tried_once(
    database: Database, relay_to: Callable[[int], Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    relay = relay_to(database.server.port)
    with connected(database, port=relay.port, password=None) as db:
        seen = relay.accepted
        with pytest.raises(psycopg.OperationalError, match="no password supplied"), db.invocation(Context()):
            backend_of(db)
        assert relay.accepted == seen + 1


@pytest.mark.parametrize(
    ("sqlstate", "message", "again"),
    [
        ("53300", "désolé, trop de clients sont déjà connectés", True),
        ("57P03", "le système de bases de données se lance", True),
        ("28P01", "authentification par mot de passe échouée", False),
        ("28000", "aucune entrée dans pg_hba.conf", False),
        ("3D000", "la base de données n'existe pas", False),
        ("42501", "droit refusé", False),
        (None, "could not receive data from server: Connection refused", True),
        (None, "SSL error: certificate verify failed", False),
        (None, 'FATAL:  role "orders" does not exist', False),
        (None, "FATAL:  sorry, too many clients already", True),
    ],
)
def test_the_sqlstate_decides_in_any_language_and_the_text_only_without_one(
    sqlstate: str | None, message: str, again: bool
) -> None:
    assert connect_may_succeed_later(sqlstate, message) is again


@pytest.mark.parametrize(
    ("wrong", "german"),
    [
        ({"password": "wrong"}, "Passwort-Authentifizierung"),
        ({"dbname": "no_such_database"}, "existiert nicht"),
    ],
)
def test_a_refusal_in_another_language_is_understood(database: Database, wrong: dict[str, str], german: str) -> None:
    with Translator(database.server.port) as front, connected(database, port=front.port, **wrong) as db:
        assert front.accepted == 1
        with pytest.raises(psycopg.OperationalError, match=german), db.invocation(Context()):
            backend_of(db)
        assert front.accepted == 2


def test_a_full_server_is_tried_again_in_any_language(own_postgres: EmbeddedPostgres) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(psycopg.connect(**own_postgres.parameters(user="orders", password="right")))
        front = stack.enter_context(Translator(own_postgres.port))
        db = stack.enter_context(connected(own_database(own_postgres), port=front.port, retry_attempts=1000))
        with pytest.raises(tidegate.DeadlineExceeded, match="Verbindungen"), db.invocation(Context(4.0)):
            backend_of(db)
        assert front.accepted > 2


def test_a_socket_folder_is_not_exchanged_for_an_address_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    folder = tempfile.mkdtemp(prefix="tg-")  # short: a socket's path has at most 107 bytes
    try:
        Path(folder).chmod(0o777)
        settings = {"unix_socket_directories": folder}
        with EmbeddedPostgres("18", settings=settings, hba=("local all all scram-sha-256",)) as server:
            with psycopg.connect(**server.parameters() | {"host": folder, "hostaddr": ""}, autocommit=True) as admin:
                admin.execute("CREATE ROLE orders LOGIN PASSWORD 'right'")
            own = Database(server, "postgres", "orders", "right")
            with connected(own, host=folder) as db, db.connection() as conn:
                assert conn.execute("SELECT inet_server_addr()").fetchone() == (None,)
    finally:
        shutil.rmtree(folder)


def test_pauses_grow_are_bounded_and_differ() -> None:
    for attempt in (0, 3, 10, 100_000):
        pauses = {pause_before(attempt) for _ in range(200)}
        assert max(pauses) <= LONGEST_PAUSE
        assert len(pauses) > 100
    assert max(pause_before(0) for _ in range(200)) < max(pause_before(10) for _ in range(200))


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "roots.pem"))
    return ca


def tls_front(authority: trustme.CA, name: str, database: Database) -> TlsFront:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return TlsFront(context, database.server.port)


def test_verify_full_accepts_the_right_certificate_and_the_connection_is_checked_through_tls(
    authority: trustme.CA, tmp_path: Path, database: Database
) -> None:
    roots = str(tmp_path / "roots.pem")
    with (
        tls_front(authority, "localhost", database) as front,
        connected(database, host="localhost", port=front.port, sslmode=None, sslrootcert=roots) as db,
    ):
        pid = backend_of(db)
        assert db.transaction(lambda conn: conn.pgconn.ssl_in_use)
        assert backend_of(db) == pid
        terminate(database, pid)
        assert backend_of(db) != pid


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("elsewhere.example", True, "does not match host name"),
        ("localhost", False, "certificate verify failed"),
    ],
)
def test_a_certificate_that_does_not_fit_is_refused_at_the_first_attempt(
    authority: trustme.CA, tmp_path: Path, database: Database, name: str, known: bool, message: str
) -> None:
    roots = str(tmp_path / "roots.pem") if known else None
    with (
        tls_front(authority, name, database) as front,
        connected(database, host="localhost", port=front.port, sslmode=None, sslrootcert=roots) as db,
    ):
        seen = front.attempts
        with pytest.raises(psycopg.OperationalError, match=message), db.invocation(Context()):
            backend_of(db)
        assert front.attempts == seen + 1


def test_a_server_without_tls_is_refused_unless_tls_is_turned_off(database: Database) -> None:
    with (
        connected(database, sslmode=None) as db,
        pytest.raises(psycopg.OperationalError, match="does not support SSL"),
        db.invocation(Context()),
    ):
        backend_of(db)
