"""Commands of the console: what they do, and that what is refused changes nothing."""

from __future__ import annotations

import threading

import psycopg
import pytest
from tests.proxy.console.helpers import command, only, show
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, StartProxy, eventually


@pytest.fixture
def watched(start_proxy: StartProxy, database: Database) -> ProxyProcess:
    """A proxy whose test user is an admin of the console."""
    return start_proxy(default_pool_size=2, admin_users=[database.user])


def test_pause_lets_transactions_end_closes_servers_and_holds_clients_until_resume(watched: ProxyProcess) -> None:
    name = watched.database.name
    with watched.connect() as one, watched.connect() as two:
        one.execute("BEGIN")
        two.execute("SELECT 1")
        pausing = threading.Thread(target=command, args=[watched, f"PAUSE {name}"])
        pausing.start()
        eventually(lambda: only(show(watched, "DATABASES"), name=name)["paused"] == 1)
        # The transaction is not disturbed, and PAUSE waits for it.
        assert one.execute("SELECT 1").fetchone() == (1,)
        assert pausing.is_alive()
        one.execute("COMMIT")
        pausing.join()
        assert show(watched, "SERVERS") == []
        eventually(lambda: watched.server_pids() == set())
        held = threading.Thread(target=two.execute, args=["SELECT 2"])
        held.start()
        eventually(lambda: only(show(watched, "POOLS"), database=name)["cl_waiting"] == 1)
        assert watched.server_pids() == set()
        command(watched, f"RESUME {name}")
        held.join()
        assert one.execute("SELECT 3").fetchone() == (3,)


def test_who_is_held_for_too_long_is_told_why_and_stays_connected(watched: ProxyProcess) -> None:
    """As with PgBouncer, whose query_wait_timeout counts during a PAUSE; there it ends the connection."""
    with watched.connect() as one:
        one.execute("SELECT 1")
        command(watched, "SET connection_borrow_timeout = 0.5")
        command(watched, "PAUSE")
        with pytest.raises(psycopg.errors.TooManyConnections, match="paused"):
            one.execute("SELECT 2")
        command(watched, "SET connection_borrow_timeout = 60")
        command(watched, "RESUME")
        assert one.execute("SELECT 3").fetchone() == (3,)


def test_pause_without_a_name_holds_everything_and_the_state_says_so(watched: ProxyProcess) -> None:
    command(watched, "PAUSE")
    assert {row["key"]: row["value"] for row in show(watched, "STATE")}["paused"] == "yes"
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="already paused"):
        command(watched, "PAUSE")
    joined: list[psycopg.Connection[tuple[object, ...]]] = []
    late = threading.Thread(target=lambda: joined.append(watched.connect()))
    late.start()
    eventually(lambda: show(watched, "BORROWS"))
    command(watched, "resume;")
    late.join()
    joined[0].close()
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="not paused"):
        command(watched, "RESUME")


def test_reconnect_replaces_connections_and_wait_close_waits_for_the_old_ones(watched: ProxyProcess) -> None:
    with watched.connect() as one, watched.connect() as two:
        two.execute("SELECT 1")
        one.execute("BEGIN")
        (old,) = one.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        command(watched, "RECONNECT")
        assert only(show(watched, "SERVERS"), remote_pid=old)["close_needed"] == 1
        waiting = threading.Thread(target=command, args=[watched, "WAIT_CLOSE"])
        waiting.start()
        one.execute("SELECT 1")
        assert waiting.is_alive()
        one.execute("COMMIT")
        waiting.join()
        assert one.execute("SELECT pg_backend_pid()").fetchone() != (old,)


def test_a_disabled_database_takes_no_new_clients_and_keeps_those_it_has(watched: ProxyProcess) -> None:
    name = watched.database.name
    with watched.connect() as one:
        command(watched, f'DISABLE "{name}"')
        assert only(show(watched, "DATABASES"), name=name)["disabled"] == 1
        with pytest.raises(psycopg.OperationalError, match="is disabled"):
            watched.connect()
        assert one.execute("SELECT 1").fetchone() == (1,)
        command(watched, f"ENABLE {name}")
        watched.connect().close()


def test_kill_ends_clients_and_servers_at_once_and_holds_new_ones(watched: ProxyProcess) -> None:
    name = watched.database.name
    with watched.connect() as one, watched.connect() as two:
        one.execute("BEGIN")
        two.execute("SELECT 1")
        command(watched, f"KILL {name}")
        with pytest.raises(psycopg.errors.AdminShutdown):
            one.execute("SELECT 1")
        with pytest.raises(psycopg.errors.AdminShutdown):
            two.execute("SELECT 1")
    eventually(lambda: watched.server_pids() == set())
    command(watched, "RESUME")
    with watched.connect() as one:
        one.execute("SELECT 1")


def test_kill_client_ends_one_client_only(watched: ProxyProcess) -> None:
    with watched.connect(application_name="victim") as one, watched.connect() as two:
        number = only(show(watched, "CLIENTS"), application_name="victim")["id"]
        command(watched, f"KILL_CLIENT {number}")
        with pytest.raises(psycopg.errors.AdminShutdown):
            one.execute("SELECT 1")
        assert two.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.errors.UndefinedObject, match="not found"):
            command(watched, f"KILL_CLIENT {number}")


def test_shutdown_ends_the_proxy_with_clients_in_it(watched: ProxyProcess) -> None:
    with watched.connect() as one:
        one.execute("BEGIN")
        command(watched, "SHUTDOWN")
        assert watched.process.wait(60) == 0
        with pytest.raises(psycopg.OperationalError):
            one.execute("SELECT 1")


def test_shutdown_for_servers_lets_transactions_end(watched: ProxyProcess) -> None:
    with watched.connect() as one:
        one.execute("BEGIN")
        command(watched, "SHUTDOWN WAIT_FOR_SERVERS")
        assert one.execute("SELECT 1").fetchone() == (1,)
        assert watched.process.poll() is None
        one.execute("COMMIT")
    assert watched.process.wait(60) == 0


def test_shutdown_for_clients_waits_until_the_last_one_goes(watched: ProxyProcess) -> None:
    with watched.connect() as one:
        command(watched, "SHUTDOWN WAIT_FOR_CLIENTS")
        with pytest.raises(psycopg.OperationalError):
            watched.connect()
        for _ in range(3):
            assert one.execute("SELECT 1").fetchone() == (1,)
        assert watched.process.poll() is None
    assert watched.process.wait(60) == 0


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("PAUSE nothere", psycopg.errors.InvalidCatalogName, "nown are|mean"),
        ("PAUSE pgbouncer", psycopg.errors.FeatureNotSupported, None),
        ("PAUSE a b", psycopg.errors.SyntaxError, "PAUSE"),
        ("DISABLE", psycopg.errors.SyntaxError, "SHOW DATABASES"),
        ("KILL_CLIENT x", psycopg.errors.SyntaxError, "SHOW CLIENTS"),
        ("SHUTDOWN SOON", psycopg.errors.SyntaxError, "WAIT_FOR_SERVERS"),
        ("SUSPEND", psycopg.errors.FeatureNotSupported, "PAUSE"),
        ("PAUZE", psycopg.errors.SyntaxError, "PAUSE"),
        ("SHOW POOL", psycopg.errors.SyntaxError, "POOLS"),
        ("PAUSE 'x", psycopg.errors.SyntaxError, "HELP"),
        ("DROP DATABASE app", psycopg.errors.SyntaxError, "HELP"),
    ],
)
def test_what_is_refused_says_why_and_changes_nothing(
    watched: ProxyProcess, text: str, error: type[psycopg.Error], hint: str | None
) -> None:
    before = show(watched, "DATABASES")
    with pytest.raises(error) as raised:
        command(watched, text)
    if hint is not None:
        assert hint.split("|")[-1] in str(raised.value.diag.message_hint) or hint.split("|")[0] in str(
            raised.value.diag.message_hint
        )
    assert show(watched, "DATABASES") == before
    assert watched.process.poll() is None


def test_users_for_statistics_may_only_show(start_proxy: StartProxy, database: Database) -> None:
    proxy = start_proxy(stats_users=[database.user])
    assert show(proxy, "POOLS")
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as raised:
        command(proxy, "PAUSE")
    assert "admin_users" in str(raised.value.diag.message_hint)
    with proxy.connect() as one:
        one.execute("SELECT 1")


def test_what_drivers_set_of_their_own_accord_is_no_error(watched: ProxyProcess) -> None:
    command(watched, "SET client_encoding TO 'UTF8'; SET DateStyle = ISO; set extra_float_digits = 3")


def test_set_changes_a_setting_at_once_until_the_configuration_is_read_again(watched: ProxyProcess) -> None:
    name = watched.database.name
    assert only(show(watched, "CONFIG"), key="default_pool_size")["changeable"] == "yes"
    command(watched, "SET default_pool_size = 1")
    assert only(show(watched, "CONFIG"), key="default_pool_size")["value"] == "1"
    with watched.connect() as one, watched.connect():
        one.execute("SELECT 1")
        assert only(show(watched, "POOLS"), database=name)["pool_size"] == 1
        command(watched, "RELOAD")
        assert only(show(watched, "POOLS"), database=name)["pool_size"] == 2
        assert one.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SET listen_port = 1", "cannot change while the proxy runs"),
        ("SET default_pool_sise = 1", "did you mean default_pool_size"),
        ("SET default_pool_size = many", "default_pool_size"),
        ("SET default_pool_size = 0", "default_pool_size"),
        ("SET admin_users = nobody", "nobody"),
        ("SET default_pool_size", "SET key = value"),
    ],
)
def test_a_set_that_fails_changes_nothing(watched: ProxyProcess, text: str, message: str) -> None:
    before = show(watched, "CONFIG")
    with pytest.raises(psycopg.Error) as raised:
        command(watched, text)
    assert message in f"{raised.value.diag.message_primary} {raised.value.diag.message_hint}"
    assert raised.value.diag.message_hint
    assert show(watched, "CONFIG") == before


def test_a_reload_that_fails_says_why_and_the_old_configuration_stays(watched: ProxyProcess) -> None:
    before = show(watched, "CONFIG")
    text = watched.config.read_text()
    watched.config.write_text(text.replace("default_pool_size = 2", "default_pool_size = = 3"))
    with pytest.raises(psycopg.Error, match="RELOAD failed") as raised:
        command(watched, "RELOAD")
    assert "stays in use" in str(raised.value.diag.message_hint)
    assert show(watched, "CONFIG") == before
    watched.config.write_text(text.replace("default_pool_size = 2", "default_pool_size = 3"))
    command(watched, "RELOAD")
    assert only(show(watched, "CONFIG"), key="default_pool_size")["value"] == "3"
