"""A server far away answers slower than the writer is asked while there is none."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

from tests.e2e.failover.conftest import MakeProxy, Pair

DELAY = 0.2
"""Seconds that every piece of data takes in each direction; `planner.SEARCH_INTERVAL` is less."""


@contextlib.contextmanager
def slow_way_to(host: str, port: int) -> Iterator[int]:
    """A loopback port that leads there slowly."""
    threads: list[threading.Thread] = []
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def start(work: threading.Thread) -> None:
            threads.append(work)
            work.start()

        def forward(source: socket.socket, target: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    time.sleep(DELAY)
                    target.sendall(data)
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client = stack.enter_context(listener.accept()[0])
                    server = stack.enter_context(socket.create_connection((host, port)))
                    start(threading.Thread(target=forward, args=(client, server), daemon=True))
                    start(threading.Thread(target=forward, args=(server, client), daemon=True))

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(20)
            # What is still open ends with the stack; the proxy may have gone without a word.
    for thread in threads:
        thread.join(20)


def test_a_writer_is_believed_though_another_server_answers_slowly(pair: Pair, proxy_for: MakeProxy) -> None:
    with slow_way_to(pair.standby.host, pair.standby.port) as port:
        settings = {"host": pair.primary.host, "endpoints": [f"127.0.0.1:{port}"]}
        proxy = proxy_for(pair.database, settings, connection_borrow_timeout=60)
        with proxy.connect() as conn:
            conn.execute("INSERT INTO written VALUES ('slowly', 1)")
            pair.primary.stop()
            pair.standby.promote()
            conn.execute("INSERT INTO written VALUES ('promoted', 1)")
        proxy.stop()
