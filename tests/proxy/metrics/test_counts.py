"""What a pool has counted, by the server that it used at the time."""

from __future__ import annotations

from tidegate_proxy.metrics.counts import Counts


def test_what_was_counted_stays_with_the_server_that_was_used_then() -> None:
    counts = Counts()
    pool = counts.of_pool("app", "orders", "a:5432")
    client = pool.statistics(secure=False)

    def transactions() -> dict[str, int]:
        found = counts.by_database_and_target()
        return {target: part.clients.transactions for (_, target), part in found.items()}

    def request(times: int) -> None:
        for _ in range(times):
            client.transactions += 1
            client.wait_ended(0.001)

    pool.servers_opened += 1
    request(3)
    pool.move("b:5432")
    assert transactions() == {"a:5432": 3, "b:5432": 0}
    pool.servers_opened += 1
    # The client is the same, and nobody has told it.
    request(2)
    pool.pins["listen"] += 1
    assert transactions() == {"a:5432": 3, "b:5432": 2}
    pool.move("a:5432")
    pool.servers_opened += 1
    request(1)
    assert transactions() == {"a:5432": 4, "b:5432": 2}
    pool.move("b:5432")
    request(10)
    assert transactions() == {"a:5432": 4, "b:5432": 12}
    counts.retire("app", "orders")
    assert transactions() == {"a:5432": 4, "b:5432": 12}
    found = counts.by_database_and_target()
    assert {target: part.servers_opened for (_, target), part in found.items()} == {"a:5432": 2, "b:5432": 1}
    assert {target: sum(part.clients.waits) for (_, target), part in found.items()} == {"a:5432": 4, "b:5432": 12}
    assert {target: part.pins["listen"] for (_, target), part in found.items()} == {"a:5432": 0, "b:5432": 1}
    assert counts.sums()["app"]["transactions"] == 16
