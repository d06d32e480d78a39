"""This process as a member: what it has when the server refuses, and how soon it is missed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.postgres import Database
from tests.support.proxy import proxy_config

from tidegate_proxy.core.statements import InternalQuery
from tidegate_proxy.fleet.membership import Membership
from tidegate_proxy.proxy import Proxy
from tidegate_proxy.settings import load_settings


def run_as_member(tmp_path: Path, database: Database, test: Callable[[Membership], Awaitable[None]]) -> None:
    """Run `test` while a proxy is a member of the fleet on the test's server."""
    file = tmp_path / "proxy.toml"
    file.write_text(proxy_config(database, {"fleet": True}))
    settings = load_settings(file, {})

    async def run() -> None:
        proxy = Proxy(settings)
        proxy.fleet.limit(proxy.target_of(settings.databases[database.name]))
        (membership,) = proxy.fleet.memberships
        serving = asyncio.create_task(proxy.serve())
        try:
            async with asyncio.timeout(60):
                await test(membership)
        finally:
            proxy.stop(0)
            await serving

    asyncio.run(run())


def test_a_share_does_not_grow_when_the_server_refuses_while_it_is_claimed(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(membership: Membership) -> None:
        ask: Any = membership._ask
        claimed = asyncio.Event()

        async def refused_meanwhile(sql: str) -> InternalQuery:
            answer: InternalQuery = await ask(sql)
            if "pg_advisory_xact_lock" in sql:
                membership.limit._refused()
                asyncio.get_running_loop().call_soon(claimed.set)
            return answer

        monkeypatch.setattr(membership, "_ask", refused_meanwhile)
        await claimed.wait()
        assert membership.limit.most == 0

    run_as_member(tmp_path, database, test)


def test_a_member_whose_machine_is_gone_is_forgotten_within_seconds(tmp_path: Path, database: Database) -> None:
    async def test(membership: Membership) -> None:
        await membership._look()
        # Lasting silence: a keepalive that nobody answers, again and again; or what was sent is never acknowledged.
        answer = await membership._ask(
            "SELECT pg_catalog.current_setting('tcp_keepalives_idle')::int"
            " + pg_catalog.current_setting('tcp_keepalives_interval')::int"
            " * pg_catalog.current_setting('tcp_keepalives_count')::int,"
            " pg_catalog.current_setting('tcp_user_timeout')::int / 1000"
        )
        seconds = [int(value or b"") for value in answer.rows[0]]
        assert all(0 < each <= 10 for each in seconds)

    run_as_member(tmp_path, database, test)
