"""The proxies that tests start run the core that the tests are meant for."""

from __future__ import annotations

from pathlib import Path

from tests.support.proxy import ProxyProcess

from tidegate_proxy.core import COMPILED


def test_a_proxy_of_a_test_runs_the_core_that_is_tested(proxy: ProxyProcess) -> None:
    with proxy.connect() as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    assert ("/core/compiled/client." in Path(f"/proc/{proxy.pid}/maps").read_text()) == COMPILED
