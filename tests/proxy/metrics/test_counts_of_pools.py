"""Which pool counts where."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.postgres import Database
from tests.support.proxy import proxy_config

from tidegate_proxy.proxy import Proxy
from tidegate_proxy.settings import load_settings


def test_who_looks_up_users_is_counted_apart_from_clients_of_the_same_name(tmp_path: Path, database: Database) -> None:
    file = tmp_path / "proxy.toml"
    auth = {"auth_user": database.user, "auth_password": database.password}
    file.write_text(proxy_config(database, database_settings=auth))
    settings = load_settings(file, {})
    target = f"{database.server.host}:{database.server.port}"

    async def run() -> None:
        proxy = Proxy(settings)
        counts = proxy.pool(database.name, database.user).counts
        try:
            counts.borrow_timeouts += 1
            await proxy._ask_as_auth_user(database.name, settings.databases[database.name], "SELECT 1")
            counts.borrow_timeouts += 1
            assert proxy.counts.by_database_and_target()[database.name, target].borrow_timeouts == 2
        finally:
            for pool in proxy.pools:
                await pool.close()
            await proxy.targets.close()
            await proxy.credentials.close()

    asyncio.run(run())
