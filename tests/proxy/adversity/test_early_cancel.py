"""A cancel request that reaches PostgreSQL before the query is ignored there; a vanished client's query must end."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from tests.proxy.adversity.helpers import value
from tests.support.proxy import ProxyProcess, eventually
from tests.support.rawclient import RawClient

from tidegate_proxy.protocol import encode

_PENDING = re.compile(r"^(?:Sig|Shd)Pnd:\t([0-9a-f]+)$", re.MULTILINE)


def is_interrupted(pid: int) -> bool:
    """Whether SIGINT, by which PostgreSQL cancels, waits for this process."""
    masks = _PENDING.findall(Path(f"/proc/{pid}/status").read_text())
    return any(int(mask, 16) & 1 << signal.SIGINT - 1 for mask in masks)


def test_the_query_of_a_vanished_client_ends_even_if_it_was_cancelled_too_early(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as client:
        backend = int(value(client, "SELECT pg_backend_pid()"))
        os.kill(backend, signal.SIGSTOP)
        try:
            client.send(encode.query("SELECT pg_sleep(3600)"))
            client.socket.close()
            eventually(lambda: is_interrupted(backend), timeout=60, what="the first cancel")
        finally:
            os.kill(backend, signal.SIGCONT)
    # It is as good as new for the next one.
    with RawClient(narrow_proxy.parameters) as client:
        assert value(client, "SELECT pg_backend_pid()") == str(backend)
