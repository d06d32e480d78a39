"""Workers count their clients in memory that all of them see."""

from __future__ import annotations

import os

from tidegate_proxy.headcount import Headcount, Place, of_database, of_source, of_user
from tidegate_proxy.shared_memory import SharedMemory


def test_what_each_has_is_added_up() -> None:
    memory = SharedMemory.create(3, 100)
    one, two, three = (SharedMemory(memory.descriptor, 3).headcount(index) for index in range(3))
    places = [Place(each, source) for each in (one, two) for source in ("10.0.0.1", "10.0.0.1", "")]
    places[0].belongs_to("app", "alice")
    places[3].belongs_to("app", "bob")
    for each in (one, two, three):
        assert each.total == 6
        assert each.of(of_source("10.0.0.1")) == 4
        assert each.of(of_source("10.0.0.2")) == 0
        assert each.of(of_database("app")) == 2
        assert each.of(of_user("bob")) == 1
    memory.forget(1)
    assert (three.total, three.of(of_source("10.0.0.1")), three.of(of_database("app"))) == (3, 2, 1)
    for place in places[:3]:
        place.leave()
    assert (three.total, three.of(of_source("10.0.0.1")), three.of(of_database("app"))) == (0, 0, 0)
    os.close(memory.descriptor)


def test_as_many_names_as_clients_may_have_are_all_counted() -> None:
    clients = 2000
    memory = SharedMemory.create(2, clients)
    one, two = (memory.headcount(index) for index in range(2))
    # They come and go several times over, and leave no trace that others would stumble on.
    for generation in range(3):
        places = []
        for number in range(clients):
            places.append(Place(one, f"{generation}.{number}"))
            places[-1].belongs_to(f"db {generation} {number}", f"user {generation} {number}")
        assert two.total == clients
        for number in range(clients):
            assert two.of(of_source(f"{generation}.{number}")) == 1
            assert two.of(of_user(f"user {generation} {number}")) == 1
        for place in places:
            place.leave()
        assert two.total == 0
        assert two.of(of_source(f"{generation}.1")) == 0
    os.close(memory.descriptor)


def test_a_process_alone_counts_its_own() -> None:
    alone = Headcount()
    place = Place(alone, "10.0.0.1")
    assert (alone.total, alone.of(of_source("10.0.0.1"))) == (1, 1)
    place.leave()
    assert (alone.total, alone.of(of_source("10.0.0.1"))) == (0, 0)
