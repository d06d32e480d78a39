"""What the proxy does every second goes on, whatever happens once."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from tests.support.postgres import Database
from tests.support.proxy import proxy_config

from tidegate_proxy.proxy import Proxy
from tidegate_proxy.settings import load_settings


def test_one_fault_does_not_end_what_is_done_every_second(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text(proxy_config(database))
    settings = load_settings(file, {})

    async def run() -> None:
        proxy = Proxy(settings)
        ticks = 0
        twice = asyncio.Event()

        def tick(period: float) -> None:
            nonlocal ticks
            ticks += 1
            if ticks == 1:
                raise ValueError("once")
            twice.set()

        monkeypatch.setattr(proxy.averages, "tick", tick)
        serving = asyncio.create_task(proxy.serve())
        async with asyncio.timeout(60):
            await twice.wait()
            proxy.stop(0)
            await serving

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert [record.name for record in caplog.records] == ["tidegate_proxy.proxy"]
