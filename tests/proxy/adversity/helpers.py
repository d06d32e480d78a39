"""What the tests of the proxy's limits, faults and life share: reading values, breaking sockets, asking PostgreSQL."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually
from tests.support.rawclient import RawClient

from tidegate_proxy.protocol.decode import parse_error_fields


def value(client: RawClient, sql: str) -> str:
    """The first column of the only row; what else the query brings is dropped, an error fails the test."""
    messages = client.query(sql)
    errors = [parse_error_fields(body) for kind, body in messages if kind == "E"]
    assert not errors, errors
    row = next(body for kind, body in messages if kind == "D")
    (length,) = struct.unpack_from("!i", row, 2)
    return row[6 : 6 + length].decode()


def backend_pid(client: RawClient) -> int:
    """Process id of the server connection that serves the client now."""
    return int(value(client, "SELECT pg_backend_pid()"))


def reset(client: RawClient) -> None:
    """Vanish with a TCP reset, as a killed host does once it is back."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


def finish(client: RawClient) -> None:
    """Vanish as a killed process does, and wait until the proxy has seen it: it closes its side then."""
    client.socket.shutdown(socket.SHUT_WR)
    assert client.is_closed()
    client.socket.close()


def running(database: Database) -> list[str]:
    """Statements that the test's user runs right now."""
    with database.server.connect() as conn:
        rows = conn.execute(
            "SELECT query FROM pg_stat_activity WHERE usename = %s AND state = 'active'", [database.user]
        ).fetchall()
    return [row[0] for row in rows]


def until_running(proxy: ProxyProcess, word: str) -> None:
    """Wait until a statement that contains `word` runs."""
    eventually(lambda: any(word in sql for sql in running(proxy.database)), what=f"a running {word}")


def until_nothing_runs(proxy: ProxyProcess) -> None:
    """Wait until the test's user runs nothing."""
    eventually(lambda: not running(proxy.database), what="the end of the query")


_PRISTINE = """
SELECT concat_ws(', ',
    CASE WHEN pg_current_xact_id_if_assigned() IS NOT NULL OR now() <> statement_timestamp()
         THEN 'a transaction is open' END,
    (SELECT 'changed ' || string_agg(name || '=' || setting, ' ') FROM pg_settings WHERE source = 'session'),
    (SELECT 'temporary ' || string_agg(pg_describe_object(classid, objid, objsubid), ' ') FROM pg_depend
      WHERE refclassid = 'pg_namespace'::regclass AND refobjid = pg_my_temp_schema() AND refobjid <> 0),
    (SELECT 'advisory locks ' || count(*) FROM pg_locks
      WHERE locktype = 'advisory' AND pid = pg_backend_pid() HAVING count(*) > 0),
    (SELECT 'prepared ' || string_agg(name, ' ') FROM pg_prepared_statements WHERE from_sql OR name !~ '^tidegate_'),
    (SELECT 'cursors ' || string_agg(name, ' ') FROM pg_cursors),
    (SELECT 'listens ' || string_agg(name, ' ') FROM pg_listening_channels() AS name),
    CASE WHEN current_setting('role') <> 'none' OR current_user <> session_user THEN 'role ' || current_user END,
    CASE WHEN session_user <> '{user}' THEN 'session of ' || session_user END,
    'app.x=' || nullif(current_setting('app.x', true), ''))
"""


def assert_pristine(client: RawClient, when: str = "") -> None:
    """The session that serves a fresh client has nothing of another's in it."""
    assert value(client, _PRISTINE.format(user=client.parameters["user"])) == "", when
    # There is no value of a sequence yet.
    errors = [parse_error_fields(body)["C"] for kind, body in client.query("SELECT lastval()") if kind == "E"]
    assert errors == ["55000"], when


def established(*, local: int | None = None, remote: int | None = None) -> set[tuple[int, int]]:
    """Local and remote port of established TCP connections on this machine, one of them given."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    pairs = {(int(row[1].split(":")[1], 16), int(row[2].split(":")[1], 16)) for row in rows if row[3] == "01"}
    return {pair for pair in pairs if local in (None, pair[0]) and remote in (None, pair[1])}


def cpu_time(proxy: ProxyProcess) -> float:
    """Seconds of CPU that the proxy process has used."""
    fields = Path(f"/proc/{proxy.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
