"""A start that can't succeed: one line that names the file, the key and what is allowed; status 2; no traceback."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psycopg
from tests.proxy.lifecycle.conftest import Authority
from tests.support.postgres import Database
from tests.support.proxy import eventually, proxy_config

from tidegate_load.postgres import free_port


def environment(variables: Mapping[str, str] = {}) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("TIDEGATE_", "PG"))} | dict(variables)


def serve(folder: Path, config: str) -> str:
    """Try to serve with this configuration; returns the one line that the failure prints."""
    (folder / "proxy.toml").write_text(config)
    ran = subprocess.run(
        [sys.executable, "-m", "tidegate_proxy", "serve", "proxy.toml"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2, ran.stderr
    assert ran.stdout == ""
    lines = ran.stderr.splitlines()
    assert len(lines) == 1, ran.stderr
    return lines[0]


def test_an_unknown_key(tmp_path: Path, database: Database) -> None:
    line = serve(tmp_path, "default_pool_sise = 5\n" + proxy_config(database))
    assert line == "Error: proxy.toml: default_pool_sise: unknown key; did you mean default_pool_size?"


def test_a_wrong_type(tmp_path: Path, database: Database) -> None:
    line = serve(tmp_path, proxy_config(database, {"default_pool_size": "many"}))
    assert line.startswith("Error: proxy.toml: default_pool_size: ")
    assert "262143" in line


def test_a_value_that_is_not_allowed(tmp_path: Path, database: Database) -> None:
    line = serve(tmp_path, proxy_config(database, {}, {"tls": "maybe"}))
    assert line.startswith(f"Error: proxy.toml: databases.{database.name}.tls: ")
    for allowed in ("disable", "require", "verify-ca", "verify-full"):
        assert allowed in line


def test_a_target_that_nothing_listens_on(tmp_path: Path, database: Database) -> None:
    port = free_port()
    line = serve(tmp_path, proxy_config(database, {}, {"port": port}))
    assert line.startswith(f"Error: proxy.toml: databases.{database.name}.host: 127.0.0.1:{port} cannot be reached")
    assert "Connection refused" in line
    assert "check_targets = false" in line


def test_a_target_whose_name_does_not_exist(tmp_path: Path, database: Database) -> None:
    line = serve(tmp_path, proxy_config(database, {}, {"host": "nowhere.invalid"}))
    assert f"databases.{database.name}.host: nowhere.invalid:{database.server.port} cannot be reached" in line


def test_a_port_in_use(tmp_path: Path, database: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = serve(tmp_path, proxy_config(database, {"listen_port": port}))
    assert line == (
        f"Error: proxy.toml: listen_port: port {port} of 127.0.0.1 is in use by another program: "
        "choose a free one, or 0 for any"
    )


def test_an_address_of_another_machine(tmp_path: Path, database: Database) -> None:
    config = proxy_config(database, {"listen_host": "192.0.2.1", "client_tls": "disable"})
    assert serve(tmp_path, config) == 'Error: proxy.toml: listen_host: this machine has no address "192.0.2.1"'


def test_a_certificate_that_is_none(tmp_path: Path, database: Database) -> None:
    (tmp_path / "bad.pem").write_text("not a certificate")
    line = serve(tmp_path, proxy_config(database, {"client_tls_cert": "bad.pem"}))
    assert line.startswith("Error: proxy.toml: client_tls_cert: ")
    assert "bad.pem" in line


def test_a_certificate_with_another_ones_key(tmp_path: Path, database: Database, authority: Authority) -> None:
    other = authority.authority.issue_cert("localhost")
    other.private_key_pem.write_to_path(str(tmp_path / "other.key"))
    settings = {"client_tls_cert": str(authority.certificate), "client_tls_key": "other.key"}
    line = serve(tmp_path, proxy_config(database, settings))
    assert line.startswith("Error: proxy.toml: client_tls_key: ")


def test_everything_by_environment_variables(tmp_path: Path, database: Database) -> None:
    name = database.name.upper()
    variables = {
        "TIDEGATE_LISTEN_PORT": "0",
        "TIDEGATE_DEFAULT_POOL_SIZE": "1",
        f"TIDEGATE_DATABASES__{name}__HOST": database.server.host,
        f"TIDEGATE_DATABASES__{name}__PORT": str(database.server.port),
        f"TIDEGATE_DATABASES__{name}__TLS": "disable",
        f"TIDEGATE_USERS__{name}__PASSWORD": database.password,
    }
    log_path = tmp_path / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tidegate_proxy", "serve"],
            cwd=tmp_path,
            env=environment(variables),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        found = eventually(lambda: re.search(r"is listening on \S+ port (\d+)", log_path.read_text()), what="the start")
        parameters = database.parameters | {"port": int(found[1])}
        with psycopg.connect(**parameters) as conn:  # type: ignore[arg-type]
            assert conn.execute("SELECT current_user").fetchone() == (database.user,)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert "Traceback" not in log_path.read_text()
