"""What a session promises, each shown with clients that share one server connection: it works for its owner, and the
other client never sees it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually
from tests.support.rawclient import RawClient, bind, execute, parse

from tidegate_proxy.protocol import encode

ROLE = "SELECT current_user::text"


def values(client: RawClient, sql: str) -> list[bytes]:
    """The first column of each row; nothing after an error."""
    return [body[6:] for kind, body in client.query(sql) if kind == "D"]


@pytest.fixture
def one(narrow_proxy: ProxyProcess) -> Iterator[RawClient]:
    """A client."""
    with RawClient(narrow_proxy.parameters) as client:
        yield client


@pytest.fixture
def two(narrow_proxy: ProxyProcess) -> Iterator[RawClient]:
    """Another client of the same single server connection."""
    with RawClient(narrow_proxy.parameters) as client:
        yield client


@pytest.fixture
def other_role(database: Database) -> Iterator[str]:
    """A role that the test's user may become."""
    role = f"promised_{database.name}"
    with database.server.connect() as admin:
        admin.execute(f"CREATE ROLE {role}")
        admin.execute(f"GRANT {role} TO {database.user}")
    yield role
    with database.server.connect() as admin:
        admin.execute(f"DROP ROLE {role}")


def test_defaults_of_a_database_reach_sessions_that_begin_later(narrow_proxy: ProxyProcess, one: RawClient) -> None:
    assert values(one, "SHOW work_mem") == [b"4MB"]
    one.query(f"ALTER DATABASE {narrow_proxy.database.name} SET work_mem TO '1234kB'")
    with RawClient(narrow_proxy.parameters) as later:
        assert values(later, "SHOW work_mem") == [b"1234kB"]
        one.query("SET work_mem TO '2MB'")
        assert values(later, "SHOW work_mem") == [b"1234kB"]
        assert values(one, "SHOW work_mem") == [b"2MB"]


@pytest.mark.parametrize(
    ("script", "stays"),
    [
        (["BEGIN", "SET ROLE {}", "COMMIT"], True),
        (["BEGIN", "SET ROLE {}", "ROLLBACK"], False),
        (["BEGIN", "SET ROLE {}", "SELECT 1/0", "COMMIT"], False),
        (["BEGIN", "SAVEPOINT s", "SET ROLE {}", "ROLLBACK TO s", "COMMIT"], False),
        (["BEGIN", "SET ROLE {}", "SAVEPOINT s", "RESET ROLE", "ROLLBACK TO s", "COMMIT"], True),
        (["BEGIN", "SET LOCAL ROLE {}", "COMMIT"], False),
        (["SET ROLE {}; SELECT 1/0"], False),
        (["SET ROLE {}", "BEGIN", "RESET ROLE", "ROLLBACK"], True),
        (["SET ROLE {}", "BEGIN; SET ROLE NONE; COMMIT"], False),
    ],
)
def test_a_role_ends_as_its_transaction_does(
    narrow_proxy: ProxyProcess, one: RawClient, two: RawClient, other_role: str, script: list[str], stays: bool
) -> None:
    own = narrow_proxy.database.user.encode()
    for statement in script:
        one.query(statement.format(other_role))
    for _ in range(2):
        assert values(two, ROLE) == [own]
        assert values(one, ROLE) == [other_role.encode() if stays else own]
    assert "pinned" not in narrow_proxy.log


@pytest.mark.parametrize(
    ("begin", "use", "expected", "end"),
    [
        ("CREATE TEMP TABLE mine AS SELECT 7 AS a", "SELECT a FROM mine", [b"7"], "DROP TABLE mine"),
        ("CREATE TEMP VIEW mine AS SELECT 7 AS a", "SELECT a FROM mine", [b"7"], "DISCARD TEMP"),
        ("CREATE TEMP SEQUENCE mine", "SELECT last_value FROM mine", [b"1"], "DROP SEQUENCE mine"),
        ("PREPARE mine AS SELECT 7", "EXECUTE mine", [b"7"], "DEALLOCATE mine"),
        ("DECLARE mine SCROLL CURSOR WITH HOLD FOR SELECT 7", "FETCH ABSOLUTE 1 mine", [b"7"], "CLOSE mine"),
        ("LISTEN mine", "SELECT pg_listening_channels()", [b"mine"], "UNLISTEN mine"),
        (
            "SELECT pg_advisory_lock(7)",
            "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
            [b"7"],
            "SELECT pg_advisory_unlock(7)",
        ),
    ],
)
def test_pinned_state_works_in_later_transactions_and_is_nobody_elses(
    narrow_proxy: ProxyProcess, one: RawClient, two: RawClient, begin: str, use: str, expected: list[bytes], end: str
) -> None:
    backend = values(two, "SELECT pg_backend_pid()")
    for _ in range(2):
        one.query(begin)
        for _ in range(3):
            assert values(one, use) == expected
        two.send(encode.query("SELECT pg_backend_pid()") + encode.query(use))
        assert values(one, use) == expected
        one.query(end)
        assert [body[6:] for kind, body in two.read_until() if kind == "D"] == backend
        assert [body for kind, body in two.read_until() if kind == "D"] == []
    eventually(lambda: narrow_proxy.log.count("no longer pinned") == 2)


@pytest.mark.parametrize("goodbye", [True, False])
def test_notifications_are_not_for_the_next_client(
    narrow_proxy: ProxyProcess, two: RawClient, database: Database, goodbye: bool
) -> None:
    with RawClient(narrow_proxy.parameters) as listener, RawClient(dict(database.parameters)) as sender:
        backend = values(listener, "SELECT pg_backend_pid()")
        listener.query("LISTEN c")
        sender.query("NOTIFY c, 'for the listener'")
        assert listener.read()[0] == "A"
        if goodbye:
            listener.send(encode.terminate())
            listener.is_closed()
        else:
            listener.socket.close()
        assert values(two, "SELECT pg_backend_pid()") == backend
        sender.query("NOTIFY c, 'for nobody'")
        assert [kind for kind, _ in two.query("SELECT 1")] == list("TDCZ")


@pytest.mark.parametrize("kind", ["", "_shared"])
@pytest.mark.parametrize("try_", ["", "try_"])
def test_locks_that_end_with_their_transaction_need_no_pin(
    narrow_proxy: ProxyProcess, one: RawClient, two: RawClient, try_: str, kind: str
) -> None:
    one.query(f"BEGIN; SELECT pg_{try_}advisory_xact_lock{kind}(5)")
    assert values(one, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [b"1"]
    one.query("COMMIT")
    assert values(two, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [b"0"]
    assert "pinned" not in narrow_proxy.log


def test_a_cancel_request_at_any_moment_hits_its_own_clients_statements_alone(
    narrow_proxy: ProxyProcess, one: RawClient, two: RawClient
) -> None:
    requests = [
        encode.query("SELECT pg_sleep(0.002)"),
        parse(b"", b"SELECT pg_sleep(0.002)") + bind() + execute() + encode.sync(),
        encode.query("SET work_mem TO '5MB'"),
        encode.query("SELECT 1; SELECT pg_sleep(0.001)"),
        encode.query("RESET ALL"),
        encode.sync(),
    ]
    two.query("SET work_mem TO '3MB'")
    hits = 0
    for number, request in enumerate(itertools.islice(itertools.cycle(requests), 120)):
        one.send(request)
        with RawClient(narrow_proxy.parameters, login=False) as canceller:
            canceller.send(encode.cancel_request(one.pid, one.key))
            # What the other one asks waits behind the cancelled statement, or runs while the request is under way.
            two.send(encode.query("SELECT pg_sleep(0.001)") if number % 2 else encode.query("SELECT 1"))
            hits += "E" in one.kinds_until()
            assert two.kinds_until() == "TDCZ"
            assert canceller.is_closed()
        assert values(two, "SHOW work_mem") == [b"3MB"]
    assert hits
    assert "pinned" not in narrow_proxy.log


def test_resets_within_savepoints_go_back_to_the_startup_message(narrow_proxy: ProxyProcess, two: RawClient) -> None:
    look = "SELECT current_setting('work_mem') || ' ' || current_setting('TimeZone')"
    with RawClient(narrow_proxy.parameters, options="-c work_mem=2MB -c TimeZone=Asia/Tokyo") as one:
        for statement, expected in (
            ("SET work_mem TO '7MB'", b"7MB Asia/Tokyo"),
            ("BEGIN", b"7MB Asia/Tokyo"),
            ("SAVEPOINT a", b"7MB Asia/Tokyo"),
            ("RESET work_mem", b"2MB Asia/Tokyo"),
            ("ROLLBACK TO a", b"7MB Asia/Tokyo"),
            ("RESET ALL", b"2MB Asia/Tokyo"),
            ("SET LOCAL work_mem TO '8MB'", b"8MB Asia/Tokyo"),
            ("RESET TimeZone", b"8MB Asia/Tokyo"),
            ("COMMIT", b"2MB Asia/Tokyo"),
        ):
            assert "E" not in [kind for kind, _ in one.query(statement)]
            assert values(one, look) == [expected], statement
        assert values(two, "SHOW work_mem") == [b"4MB"]
        assert values(one, look) == [b"2MB Asia/Tokyo"]
