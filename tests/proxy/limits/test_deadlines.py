"""A transaction ends at the deadline that its client has set, whatever has become of the client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psycopg
import pytest
from tests.proxy.metrics.test_served import samples
from tests.support.proxy import ProxyProcess, StartProxy, eventually
from tests.support.rawclient import RawClient, bind, describe, execute, parse

from tidegate_proxy.metrics.registry import METRICS
from tidegate_proxy.protocol import encode

PASSED = b"57014"
Q, S = encode.query, encode.sync()


def within(milliseconds: int, text: str = "BEGIN") -> str:
    """The text with a deadline."""
    return f"{text} /* tidegate.deadline_ms={milliseconds} */"


def error_of(messages: list[tuple[str, bytes]]) -> bytes:
    """The SQLSTATE of the error among them, or nothing."""
    return next((body.split(b"\0C")[1][:5] for kind, body in messages if kind == "E"), b"")


def values(client: RawClient, text: str) -> list[bytes]:
    """The first column of each row."""
    return [body[6:] for kind, body in client.query(text) if kind == "D"]


def test_a_running_statement_is_cancelled(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.send(Q(within(1500)) + Q("SELECT pg_sleep(60)"))
        one.read_until()
        messages = one.read_until()
        assert error_of(messages) == PASSED
        assert messages[-1][1] == b"E"
        # The client does nothing more about it.
        assert values(two, "SELECT 'served'") == [b"served"]
        messages = one.query("SELECT 'in a transaction'")
        assert (error_of(messages), messages[-1][1]) == (PASSED, b"E")
        messages = one.query("SELECT 'still in it'")
        assert (error_of(messages), messages[-1][1]) == (b"25P02", b"E")
        one.query("ROLLBACK")
        assert values(one, "SELECT 'goes on'") == [b"goes on"]
    assert narrow_proxy.log.count("pinned") == 0


@pytest.mark.parametrize("end", ["ROLLBACK", "rollback work;", "ABORT"])
def test_an_idle_transaction_is_rolled_back(narrow_proxy: ProxyProcess, end: str) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("CREATE TABLE t (a int)")
        one.query(within(1500))
        one.query("INSERT INTO t VALUES (1)")
        assert values(two, "SELECT count(*) FROM t") == [b"0"]
        assert [kind for kind, _ in one.query(end)] == ["C", "Z"]
        one.query("INSERT INTO t VALUES (2)")
        assert values(two, "SELECT a FROM t") == [b"2"]


def test_a_commit_that_comes_too_late_fails(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.send(Q(within(3000)) + Q("CREATE TABLE t (a int)"))
        assert [one.kinds_until(), one.kinds_until()] == ["CZ", "CZ"]
        assert values(two, "SELECT to_regclass('t') IS NULL") == [b"t"]
        messages = one.query("COMMIT")
        assert (error_of(messages), messages[-1][1]) == (PASSED, b"I")


def test_who_waits_for_a_server_connection_leaves_the_queue(narrow_proxy: ProxyProcess) -> None:
    with (
        RawClient(narrow_proxy.parameters) as holder,
        RawClient(narrow_proxy.parameters) as one,
        RawClient(narrow_proxy.parameters) as two,
    ):
        holder.query("BEGIN")
        assert error_of(one.query(within(200))) == PASSED
        two.send(parse(b"", within(200, "SELECT 1").encode()) + bind() + execute() + S)
        assert error_of(two.read_until()) == PASSED
        holder.query("COMMIT")
        assert values(one, "SELECT 1") == [b"1"]
        assert values(two, "SELECT 1") == [b"1"]


def test_it_ends_with_its_transaction(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one:
        for pinned in (False, True):
            if pinned:
                one.query("LISTEN pinned")
            one.query(within(1500))
            one.query("COMMIT")
            assert error_of(one.query("SELECT pg_sleep(2)")) == b""
            one.query(within(1500, "SELECT 1"))
            assert error_of(one.query("SELECT pg_sleep(2)")) == b""


def test_postgresql_never_sees_it(narrow_proxy: ProxyProcess) -> None:
    database = narrow_proxy.database
    query = "SELECT query FROM pg_stat_activity WHERE usename = %s AND state LIKE 'idle in%%'"
    with RawClient(narrow_proxy.parameters) as one, database.server.connect() as admin:
        extended = parse(b"", within(60_000).encode()) + bind() + describe(b"P", b"") + execute() + S
        for begin in (Q(within(60_000)), extended, Q("SET tidegate.deadline_ms = '60000'") + Q("BEGIN")):
            one.send(begin)
            while one.read_until()[-1] != ("Z", b"T"):
                pass
            assert admin.execute(query, [database.user]).fetchall() == [("BEGIN",)]
            one.query("COMMIT")
        assert values(one, "SELECT current_setting('tidegate.deadline_ms', true) IS NULL") == [b"t"]


def test_set_ahead_of_the_transaction_in_one_write(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as holder, RawClient(narrow_proxy.parameters) as one:
        holder.query("BEGIN")
        one.send(Q("SET tidegate.deadline_ms = '1500'") + Q("BEGIN"))
        # It needs no server connection, and has no answer that waits for one.
        assert one.kinds_until() == "CZ"
        assert error_of(one.read_until()) == PASSED
        holder.query("ROLLBACK")
        one.send(Q("BEGIN") + Q("SET tidegate.deadline_ms = '1500'") + Q("SELECT pg_sleep(60)"))
        answers = [one.read_until() for _ in range(3)]
        assert [message[-1][1] for message in answers] == [b"T", b"T", b"E"]
        assert error_of(answers[2]) == PASSED
        one.query("ROLLBACK")
        one.send(Q("SET tidegate.deadline_ms = '1500'") + Q("SET tidegate.deadline_ms = 0"))
        assert [one.kinds_until(), one.kinds_until()] == ["CZ", "CZ"]
        assert error_of(one.query("SELECT pg_sleep(2)")) == b""


def test_who_takes_no_answer_loses_the_server_connection(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as two:

        def loses_it() -> bool:
            with RawClient(narrow_proxy.parameters) as one:
                one.send(Q(within(2000)) + Q("SELECT repeat('x', 1000) FROM generate_series(1, 1000000)"))
                assert values(two, "SELECT 'served'") == [b"served"]
                try:
                    answers = [one.read_until() for _ in range(2)]
                except (EOFError, ConnectionError):
                    return True  # in the midst of a row
            # On a busy machine, the deadline may have passed before the server had anything to answer.
            assert PASSED in map(error_of, answers)
            return False

        eventually(loses_it, what="the end of who takes no answer")


def test_a_client_in_the_midst_of_sending(narrow_proxy: ProxyProcess) -> None:
    late = Q("SELECT '" + "x" * 200_000 + "'")
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.send(Q(within(3000)) + late[:100_000])
        assert one.kinds_until() == "CZ"
        assert values(two, "SELECT 'served'") == [b"served"]
        one.send(late[100_000:] + Q("SELECT 1"))
        assert error_of(one.read_until()) == PASSED
        assert error_of(one.read_until()) == b"25P02"


def test_the_rest_of_a_pipeline_is_not_committed(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("CREATE TABLE t (a int)")
        one.query(within(1500))
        assert values(two, "SELECT count(*) FROM t") == [b"0"]
        steps = ("INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)", "COMMIT")
        one.send(b"".join(parse(b"", step.encode()) + bind() + execute() + S for step in steps))
        answers = [one.read_until() for _ in steps]
        assert [error_of(answer) for answer in answers] == [PASSED, b"25P02", b""]
        assert answers[2][-2:] == [("C", b"ROLLBACK\0"), ("Z", b"I")]
        assert values(two, "SELECT count(*) FROM t") == [b"0"]


def test_goodbye_does_not_end_the_deadline(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as two:
        with RawClient(narrow_proxy.parameters) as one:
            one.send(Q(within(1500, "SELECT pg_sleep(300)")) + encode.terminate())
        assert values(two, "SELECT 'served'") == [b"served"]


def test_who_is_only_pinned_has_no_transaction_to_end(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one:
        one.query("LISTEN c")
        one.send(Q("SET tidegate.deadline_ms = '1000'") + Q("SELECT pg_sleep(0)"))
        assert [error_of(one.read_until()) for _ in range(2)] == [b"", b""]
        one.query("SET tidegate.deadline_ms = '300'")
        one.socket.settimeout(1.5)
        with pytest.raises(TimeoutError):
            one.read()


def test_pipelines_and_copy(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("CREATE TABLE t (a int)")
        one.send(Q(within(3000)) + Q("SAVEPOINT a") + Q("COPY t FROM STDIN"))
        assert [one.kinds_until(), one.kinds_until(), one.kinds_until("G")] == ["CZ", "CZ", "G"]
        assert values(two, "SELECT count(*) FROM t") == [b"0"]
        assert error_of(one.read_until()) == PASSED
        one.query("ROLLBACK")
        one.send(parse(b"s", within(1500, "BEGIN").encode()) + bind(b"", b"s") + execute() + encode.flush())
        assert one.kinds_until("C") == "12C"
        assert values(two, "SELECT count(*) FROM t") == [b"0"]
        one.send(parse(b"", b"SELECT 1") + bind() + execute() + S)
        assert error_of(one.read_until()) == PASSED
        assert values(one, "SELECT 1") == [b"1"]


def test_a_pinned_client_ends_with_its_deadline(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query("CREATE TEMP TABLE t (a int)")
        one.query(within(1500))
        assert values(two, "SELECT to_regclass('pg_temp.t') IS NULL") == [b"t"]
        assert error_of([one.read()]) == PASSED
        assert one.is_closed()


FROZEN = """
import psycopg, sys
with psycopg.connect(sys.argv[1], autocommit=True) as conn:
    conn.execute("BEGIN /* tidegate.deadline_ms=1500 */")
    print("begun", flush=True)
    conn.execute("SELECT pg_sleep(60)")
"""


def test_frozen_processes_hold_nothing_beyond_their_deadlines(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=3)
    conninfo = psycopg.conninfo.make_conninfo(**proxy.parameters)
    frozen = [
        subprocess.Popen([sys.executable, "-c", FROZEN, conninfo], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(3)
    ]
    try:
        for process in frozen:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            os.kill(process.pid, signal.SIGSTOP)
        with proxy.database.server.connect() as admin:
            busy = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND state <> 'idle'"
            eventually(lambda: admin.execute(busy, [proxy.database.user]).fetchone() == (0,))
        with RawClient(proxy.parameters) as client:
            assert values(client, "SELECT 'served'") == [b"served"]
    finally:
        for process in frozen:
            process.kill()
            process.communicate()


def test_late_answers_of_a_frozen_server_are_not_the_clients_any_more(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=2)
    again = parse(b"", b"SELECT * FROM gone") + S
    with RawClient(proxy.parameters) as one, RawClient(proxy.database.parameters) as direct:
        one.query("CREATE TABLE gone AS SELECT 7")
        pid = int(values(one, "SELECT pg_backend_pid()")[0])
        for _ in range(3):
            one.send(again)
            assert one.kinds_until() == "1Z"
        os.kill(pid, signal.SIGSTOP)
        try:
            # Which no server sees: the client's statement stays what it is.
            one.query("SET tidegate.deadline_ms = 1000")
            one.send(again)
            assert error_of(one.read_until()) == PASSED
            # By another server connection.
            one.send(again)
            assert one.kinds_until() == "1Z"
            direct.query("DROP TABLE gone")
        finally:
            os.kill(pid, signal.SIGCONT)
        busy = f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND (state <> 'idle' OR query ~ 'gone')"
        eventually(lambda: not values(direct, busy), what="the end of what was cut off")
        # The statement is still there, and is looked at: the frozen server has refused it, and nobody cares.
        one.send(bind() + execute() + S)
        assert error_of(one.read_until()) == b"42P01"


def test_each_one_that_has_ended_something_is_counted(start_proxy: StartProxy) -> None:
    proxy = start_proxy(default_pool_size=1, http_port=0)
    (counter,) = [metric.prometheus for metric in METRICS if metric.name == "DeadlineCancels"]

    def counted() -> float:
        return sum(value for (name, _), value in samples(proxy).items() if name == counter)

    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        one.query(within(60_000))
        one.query("COMMIT")
        assert counted() == 0
        one.query(within(1000))
        assert error_of(one.query("SELECT pg_sleep(60)")) == PASSED
        # Served when the transaction, idle by then, is over, too: it counts once.
        values(two, "SELECT 'served'")
        assert counted() == 1
        one.query("ROLLBACK")
        two.query("BEGIN")
        assert error_of(one.query(within(100))) == PASSED
        assert counted() == 2
        two.query("COMMIT")
        one.query(within(100))
        eventually(lambda: counted() == 3)
