"""Passwords in files of their own: of clients, and of the user whom the proxy logs in as."""

from __future__ import annotations

from pathlib import Path

from tests.proxy.identity.conftest import Serve, refusal
from tests.support.postgres import Database


def test_both_sides_passwords_come_from_files(serve: Serve, database: Database, tmp_path: Path) -> None:
    for name, password in (("server", database.password), ("client", "Pw-of-the-client")):
        # As an editor leaves it.
        (tmp_path / name).write_text(f"{password}\n")
    proxy = serve(
        databases={database.name: {"user": database.user, "password_file": str(tmp_path / "server")}},
        users={"somebody": {"password_file": str(tmp_path / "client")}},
        hidden={"Pw-of-the-client"},
    )
    with proxy.connect(user="somebody", password="Pw-of-the-client") as conn:
        assert conn.execute("SELECT session_user").fetchone() == (database.user,)
    assert "authentication failed" in refusal(proxy, user="somebody", password=database.password)
