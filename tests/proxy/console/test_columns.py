"""The columns of every SHOW that PgBouncer has too: its names, its order and its types."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.proxy.console.helpers import console
from tests.support.postgres import Database
from tests.support.proxy import StartProxy, eventually

from tidegate_load.postgres import unprivileged_user

Columns = list[tuple[str, int]]

# Of src/include/catalog/pg_type.dat of PostgreSQL.
TYPES = {"s": 25, "i": 23, "q": 20, "N": 1700}
"""Object identifiers by the letters with which PgBouncer's source writes them."""

_STATS = """server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time
    client_parse_count server_parse_count bind_count"""
_SOCKETS = """type user database replication state addr port local_addr local_port connect_time request_time
    wait wait_us close_needed ptr link remote_pid tls application_name prepared_statements id"""
_SOCKET_TYPES = "ssssss" + "i" + "s" + "i" + "ss" + "iii" + "ss" + "i" + "ss" + "ii"
_LOW_LEVEL = "recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail"
# Of src/admin.c and src/stats.c of PgBouncer 1.24. Its times are texts. Of SHOW FDS the first eight: what follows there
# are secrets of clients.
PGBOUNCER = {
    "STATS": (
        """database total_server_assignment_count total_xact_count total_query_count total_received total_sent
        total_xact_time total_query_time total_wait_time total_client_parse_count total_server_parse_count
        total_bind_count avg_server_assignment_count avg_xact_count avg_query_count avg_recv avg_sent avg_xact_time
        avg_query_time avg_wait_time avg_client_parse_count avg_server_parse_count avg_bind_count""",
        "s" + "N" * 22,
    ),
    "STATS_TOTALS": (f"database {_STATS}", "s" + "N" * 11),
    "STATS_AVERAGES": (f"database {_STATS}", "s" + "N" * 11),
    "TOTALS": ("name value", "sN"),
    "POOLS": (
        """database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel
        sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode load_balance_hosts""",
        "ss" + "i" * 13 + "ss",
    ),
    "DATABASES": (
        """name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime pool_mode
        load_balance_hosts max_connections current_connections max_client_connections current_client_connections
        paused disabled""",
        "ssissiiiissiiiiii",
    ),
    "USERS": (
        """name pool_size reserve_pool_size pool_mode max_user_connections current_connections
        max_user_client_connections current_client_connections""",
        "ssssiiii",
    ),
    "CLIENTS": (_SOCKETS, _SOCKET_TYPES),
    "SERVERS": (_SOCKETS, _SOCKET_TYPES),
    "SOCKETS": (f"{_SOCKETS} {_LOW_LEVEL}", _SOCKET_TYPES + "i" * 7),
    "ACTIVE_SOCKETS": (f"{_SOCKETS} {_LOW_LEVEL}", _SOCKET_TYPES + "i" * 7),
    "CONFIG": ("key value default changeable", "ssss"),
    "LISTS": ("list items", "si"),
    "MEM": ("name size used free memtotal", "siiii"),
    "STATE": ("key value", "ss"),
    "FDS": ("fd task user database addr port cancel link", "issssiqi"),
    "DNS_HOSTS": ("hostname ttl addrs", "sqs"),
    "DNS_ZONES": ("zonename serial count", "sqi"),
    "PEERS": ("peer_id host port pool_size", "isii"),
    "PEER_POOLS": ("peer_id cl_active_cancel_req cl_waiting_cancel_req sv_active_cancel sv_login", "iiiii"),
    "VERSION": ("version", "s"),
}
WITHHELD = {
    "client_encoding",
    "std_strings",
    "datestyle",
    "timezone",
    "password",
    "scram_client_key",
    "scram_server_key",
}
"""Columns of SHOW FDS that are never shown here: they are for handing clients over to a new process."""
INSTALLED = shutil.which("pgbouncer") or ""
RENAMED = {"reserve_pool": "reserve_pool_size"}
"""In SHOW DATABASES, before 1.24."""


def columns(conn: psycopg.Connection[Any], word: str) -> Columns:
    """Names and types of a SHOW's columns."""
    cursor = psycopg.ClientCursor(conn)
    cursor.execute(f"SHOW {word}")
    assert cursor.statusmessage == "SHOW"
    return [(column.name, column.type_code) for column in cursor.description or []]


@contextmanager
def installed_pgbouncer(program: str) -> Iterator[psycopg.Connection[Any]]:
    """The console of a PgBouncer that listens on a Unix socket only."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)  # PgBouncer does not run as root
        (folder / "users.txt").write_text('"someone" "x"\n')
        file = folder / "pgbouncer.ini"
        file.write_text(
            "[databases]\nunused = host=127.0.0.1\n[pgbouncer]\nlisten_addr =\nlisten_port = 6432\n"
            f"unix_socket_dir = {folder}\nauth_type = trust\nauth_file = {folder / 'users.txt'}\n"
            "admin_users = someone\n"
        )
        user = unprivileged_user()
        process = subprocess.Popen([program, "-q", *(["-u", user.pw_name] if user is not None else []), file])
        try:
            eventually((folder / ".s.PGSQL.6432").exists)
            parameters: dict[str, Any] = {
                "host": name,
                "port": 6432,
                "user": "someone",
                "dbname": "pgbouncer",
                "autocommit": True,
            }
            with psycopg.connect(**parameters) as conn:
                yield conn
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def ours(start_proxy: StartProxy, database: Database) -> Iterator[psycopg.Connection[Any]]:
    """The console of a proxy."""
    with console(start_proxy(admin_users=[database.user])) as conn:
        yield conn


def test_they_begin_with_those_of_pgbouncer_in_its_order(ours: psycopg.Connection[Any]) -> None:
    for word, (names, types) in PGBOUNCER.items():
        wanted = list(zip(names.split(), (TYPES[letter] for letter in types), strict=True))
        assert columns(ours, word)[: len(wanted)] == wanted, word


# Whether there is one, and which, is the machine's affair: Debian's is older than the table above.
if INSTALLED:

    def test_an_installed_pgbouncers_are_all_there(ours: psycopg.Connection[Any]) -> None:
        with installed_pgbouncer(INSTALLED) as theirs:
            compared = 0
            for word in PGBOUNCER:
                try:
                    wanted = columns(theirs, word)
                except psycopg.errors.ProtocolViolation:
                    continue  # a word of a later version
                compared += 1
                found = columns(ours, word)
                for name, kind in wanted:
                    if name not in WITHHELD:
                        assert (RENAMED.get(name, name), kind) in found, word
        assert compared >= 15
