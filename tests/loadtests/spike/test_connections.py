"""The sampler counts everyone's connections, its own included, while they are open."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import pytest
from tests.support.postgres import Database

from tidegate_load.spike.connections import SAMPLER, ConnectionSampler
from tidegate_load.spike.recording import ConnectionSample


def until(sampler: ConnectionSampler, condition: Callable[[ConnectionSample], bool]) -> ConnectionSample:
    deadline = time.monotonic() + 60
    while not condition(sampler.last):
        assert time.monotonic() < deadline, f"not seen; last: {sampler.last}"
        time.sleep(0.02)
    return sampler.last


def test_connections_are_counted_by_role_and_application(database: Database) -> None:
    with ConnectionSampler(database.server.parameters(), interval=0.02) as sampler:
        assert sampler.max_connections == 100
        assert sampler.last.by_owner[f"postgres/{SAMPLER}"] >= 1
        mine = f"{database.user}/orders"
        open_ones = [psycopg.connect(**database.parameters, application_name="orders") for _ in range(3)]  # type: ignore[arg-type]
        sample = until(sampler, lambda sample: sample.by_owner.get(mine) == 3)
        assert sample.total == sum(sample.by_owner.values()) >= 4
        for conn in open_ones:
            conn.close()
        until(sampler, lambda sample: mine not in sample.by_owner)


def test_samples_of_one_run_are_those_since_it_began(database: Database) -> None:
    with ConnectionSampler(database.server.parameters(), interval=0.02) as sampler:
        began = time.time()
        until(sampler, lambda sample: sample.time > began)
        assert all(sample.time >= began for sample in sampler.since(began))
        assert len(sampler.since(0)) > len(sampler.since(began)) > 0


def test_a_lost_connection_ends_the_sampling_and_is_told(database: Database) -> None:
    with ConnectionSampler(database.server.parameters(), interval=0.02) as sampler:
        assert sampler._conn is not None
        with database.server.connect() as conn:
            conn.execute("SELECT pg_terminate_backend(%s)", (sampler._conn.info.backend_pid,))
        deadline = time.monotonic() + 60
        while sampler.error is None:
            assert time.monotonic() < deadline, "the sampler did not notice"
            time.sleep(0.02)


def test_a_database_that_is_not_there_is_an_error() -> None:
    with pytest.raises(psycopg.OperationalError), ConnectionSampler({"host": "127.0.0.1", "port": 1}):
        pass
