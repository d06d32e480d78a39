"""The command, as a real process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.proxy.settings.conftest import SERVER, Certificates

from tidegate_proxy import __version__

SECRET = "hunter2-marker"


def run(*arguments: str, cwd: Path, variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TIDEGATE_")}
    return subprocess.run(
        [sys.executable, "-m", "tidegate_proxy", *arguments],
        cwd=cwd,
        env=environment | (variables or {}),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_version(tmp_path: Path) -> None:
    ran = run("--version", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.fullmatch(rf"tidegate-proxy {re.escape(__version__)} \((compiled|interpreted) core\)\n", ran.stdout)


def test_help_names_the_commands_and_where_the_settings_are_explained(tmp_path: Path) -> None:
    ran = run("--help", cwd=tmp_path)
    assert ran.returncode == 0
    for words in ("serve", "check", "docs/configuration.md", "TIDEGATE_LISTEN_PORT"):
        assert words in ran.stdout


def test_check_says_what_the_proxy_would_do(tmp_path: Path, certificates: Certificates) -> None:
    (tmp_path / "tidegate.toml").write_text(
        'listen_host = "0.0.0.0"\nclient_tls_cert = "both.pem"\nmax_client_conn = 50\n'
        '[databases.app]\nhost = "db"\ndbname = "app2"\nuser = "proxy"\n'
        f'password = "{SECRET}"\ntls = "require"\npool_size = 5\n'
        '[databases."*"]\nhost = "any"\n'
        f'[users.app]\npassword = "{SECRET}"\n'
    )
    ran = run("check", "tidegate.toml", cwd=tmp_path)
    assert ran.stdout.splitlines() == [
        "The configuration is valid.",
        "Clients: 0.0.0.0 port 6432, TLS required, at most 50 at a time",
        "Database app: db port 5432, database app2, as proxy, TLS require, at most 5 connections per user",
        (
            "Database any other: any port 5432, database of the same name, as the client, TLS verify-full, "
            "at most 20 connections per user"
        ),
        "Users: 1",
    ]
    assert (ran.returncode, ran.stderr) == (0, "")


def test_check_takes_everything_from_the_environment(tmp_path: Path) -> None:
    ran = run("check", cwd=tmp_path, variables={"TIDEGATE_DATABASES__APP__HOST": "db"})
    assert ran.returncode == 0
    assert "Users: none, so nobody can log in" in ran.stdout


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_bad_configuration_is_one_line_and_status_2(tmp_path: Path, command: str) -> None:
    (tmp_path / "tidegate.toml").write_text(SERVER + f'pasword = "{SECRET}"\n')
    ran = run(command, "tidegate.toml", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "Error: tidegate.toml: databases.app.pasword: unknown key; did you mean password?\n"


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_file_that_is_not_there_is_one_line_and_status_2(tmp_path: Path, command: str) -> None:
    ran = run(command, "nowhere.toml", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "Error: nowhere.toml: cannot be read: No such file or directory\n"


def test_more_clients_than_open_files_is_one_line_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "tidegate.toml").write_text("max_client_conn = 1000\n" + SERVER)
    limited = f"ulimit -n 500; exec {sys.executable} -m tidegate_proxy check tidegate.toml"
    ran = subprocess.run(["sh", "-c", limited], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        "Error: max_client_conn: 1000 clients need 1125 open files, but the hard limit is 500: "
        "raise the limit to 1125 (ulimit -Hn, LimitNOFILE=, or docker run --ulimit nofile=), "
        "or set max_client_conn to at most 375\n"
    )


def test_check_warns_of_a_fleet_whose_members_show_unknown_users_salts_of_their_own(tmp_path: Path) -> None:
    fleet = "fleet = true\n"
    for line, warns in (("", True), ('scram_mock_secret = "sixteen characters"\n', False)):
        (tmp_path / "tidegate.toml").write_text(fleet + line + SERVER)
        ran = run("check", "tidegate.toml", cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        assert ("scram_mock_secret is not given" in ran.stderr) == warns
