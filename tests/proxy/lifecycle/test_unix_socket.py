"""Clients of the Unix socket, and the socket's file."""

from __future__ import annotations

import getpass
import grp
import os
import signal
import socket
import stat
from pathlib import Path

import psycopg
import pytest
from tests.support.proxy import ProxyProcess, StartProxy, eventually

from tidegate_load.postgres import free_port


def parameters(proxy: ProxyProcess, folder: Path) -> dict[str, object]:
    return proxy.parameters | {"host": str(folder)}


def test_clients_come_over_a_unix_socket_with_their_passwords(start_proxy: StartProxy, tmp_path: Path) -> None:
    proxy = start_proxy(unix_socket_dir=str(tmp_path), unix_socket_mode="0770")
    path = tmp_path / f".s.PGSQL.{proxy.port}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o770
    with psycopg.connect(**parameters(proxy, tmp_path)) as conn:  # type: ignore[arg-type]
        assert conn.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(**parameters(proxy, tmp_path) | {"password": "wrong"})  # type: ignore[arg-type]
    assert proxy.stop() == 0
    assert not list(tmp_path.glob(".s.PGSQL*"))


def test_the_socket_belongs_to_the_group_that_is_named(start_proxy: StartProxy, tmp_path: Path) -> None:
    # Another than our own, if there is one that we may give a file to.
    mine = {os.getegid(), *os.getgroups()}
    groups = [group for group in grp.getgrall() if os.geteuid() == 0 or group.gr_gid in mine]
    group = max(groups, key=lambda group: group.gr_gid != os.getegid())
    proxy = start_proxy(unix_socket_dir=str(tmp_path), unix_socket_group=group.gr_name)
    assert (tmp_path / f".s.PGSQL.{proxy.port}").stat().st_gid == group.gr_gid


def test_whoever_runs_the_proxy_uses_the_console_without_a_password(start_proxy: StartProxy, tmp_path: Path) -> None:
    proxy = start_proxy(unix_socket_dir=str(tmp_path))
    console = {"dbname": "pgbouncer", "user": "pgbouncer", "password": None, "autocommit": True}
    with psycopg.connect(**parameters(proxy, tmp_path) | console) as conn:  # type: ignore[arg-type]
        assert "Tidegate" in str(psycopg.ClientCursor(conn).execute("SHOW VERSION").fetchone())
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(**proxy.parameters | console)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(**parameters(proxy, tmp_path) | {"password": None})  # type: ignore[arg-type]


def test_with_peer_the_operating_systems_user_needs_no_password(start_proxy: StartProxy, tmp_path: Path) -> None:
    me = getpass.getuser()
    more = f'[users."{me}"]\npassword = "never sent"\n'
    proxy = start_proxy(
        unix_socket_dir=str(tmp_path),
        unix_socket_auth="peer",
        more=more,
        check_targets=False,
        database_settings={"user": "PLACEHOLDER"},
    )
    database = proxy.database
    text = proxy.config.read_text().replace('"PLACEHOLDER"', f'"{database.user}"\npassword = "{database.password}"')
    proxy.config.write_text(text)
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: "reloaded: databases changed" in proxy.log)
    with psycopg.connect(**parameters(proxy, tmp_path) | {"user": me, "password": None}) as conn:  # type: ignore[arg-type]
        assert conn.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="Peer authentication failed"):
        psycopg.connect(**parameters(proxy, tmp_path))  # type: ignore[arg-type]


def test_a_socket_left_behind_by_a_killed_proxy_is_replaced(start_proxy: StartProxy, tmp_path: Path) -> None:
    first = start_proxy(unix_socket_dir=str(tmp_path))
    port = first.port
    first.stop(signal.SIGKILL)
    assert (tmp_path / f".s.PGSQL.{port}").exists()
    second = start_proxy(unix_socket_dir=str(tmp_path), listen_port=port)
    with psycopg.connect(**parameters(second, tmp_path)) as conn:  # type: ignore[arg-type]
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_socket_in_use_is_left_alone(start_proxy: StartProxy, tmp_path: Path) -> None:
    port = free_port()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / f".s.PGSQL.{port}"))
        other.listen()
        with pytest.raises(AssertionError, match="is in use by another program"):
            start_proxy(unix_socket_dir=str(tmp_path), listen_port=port)


def test_there_may_be_several_addresses(start_proxy: StartProxy, tmp_path: Path) -> None:
    proxy = start_proxy(listen_host="127.0.0.1,127.0.0.2", unix_socket_dir=str(tmp_path))
    with proxy.connect(host="127.0.0.2") as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    with psycopg.connect(**parameters(proxy, tmp_path)) as conn:  # type: ignore[arg-type]
        assert conn.execute("SELECT 1").fetchone() == (1,)
