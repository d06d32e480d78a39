"""What a pool has counted, by the server that it used at the time."""

from __future__ import annotations

from tidegate_proxy.metrics.counts import Counts


def test_what_was_counted_stays_with_the_server_that_was_used_then() -> None:
    counts = Counts(lambda _: True)
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


def failures(counts: Counts) -> dict[str, int]:
    return {name: part.servers_failed for (name, _), part in counts.by_database_and_target().items()}


def test_a_user_whose_logins_all_failed_takes_no_counter_back() -> None:
    counts = Counts(lambda _: False)
    counts.of_pool("app", "works", "a:5432").servers_opened += 1
    counts.of_pool("app", "fails", "a:5432").servers_failed += 12
    assert failures(counts) == {"app": 12}
    counts.retire("app", "fails")
    assert failures(counts) == {"app": 12}
    counts.retire("app", "works")
    assert failures(counts) == {"app": 12}


def test_what_fails_during_a_whole_outage_is_counted() -> None:
    counts = Counts(lambda database: database == "app")
    pool = counts.of_pool("app", "orders", "a:5432")
    pool.servers_failed += 3
    pool.borrow_timeouts += 2
    counts.retire("app", "orders")
    found = counts.by_database_and_target()["app", "a:5432"]
    assert (found.servers_failed, found.borrow_timeouts) == (3, 2)


def test_names_that_clients_invent_are_counted_as_one() -> None:
    counts = Counts(lambda database: database == "app")
    for number in range(1000):
        counts.of_pool(f"guess{number}", "orders", "a:5432").servers_failed += 1
        counts.retire(f"guess{number}", "orders")
    assert failures(counts) == {"*": 1000}
