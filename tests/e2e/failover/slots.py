"""Whether a proxy is as good as new after what it went through."""

from __future__ import annotations

from contextlib import ExitStack

from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess, eventually
from tests.support.rawclient import RawClient


def assert_all_slots_free(proxy: ProxyProcess, database: Database, pool_size: int) -> None:
    """Every place in the pool can be had at the same time, and there is no server connection beside those.

    Parameters: `database`, on the server that is the writer now.
    """
    proxy.database = database
    with ExitStack() as stack:
        pids = set()
        for _ in range(pool_size):
            client = stack.enter_context(RawClient(proxy.parameters))
            messages = client.query("BEGIN; SELECT pg_backend_pid()")
            pids.add(next(int(body[6:]) for kind, body in messages if kind == "D"))
        assert len(pids) == pool_size
        # Others may still be on their way to be closed.
        eventually(lambda: proxy.server_pids() == pids, what="no server connection beside the pool's")
