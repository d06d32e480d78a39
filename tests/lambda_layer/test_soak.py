"""No row is lost and none is doubled, over any number of runs, whatever happens to the connection on the way.

A hundred and fifty runs here; `make soak-layer` makes thousands.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from tests.lambda_layer.helpers import Context, connected, plain_connection
from tests.support.postgres import Database
from tests.support.proxy import eventually
from tests.support.relay import Relay

import tidegate

RUNS = int(os.environ.get("TIDEGATE_SOAK_RUNS", "150"))
SEED = int(os.environ.get("TIDEGATE_SOAK_SEED", "1"))


def reset(relay: Relay, dice: random.Random) -> None:
    relay.reset_at(dice.choice((b"BEGIN", b"INSERT", b"COMMIT")), after_answer=dice.random() < 0.5)


def reset_at_the_answer_to_commit(relay: Relay, dice: random.Random) -> None:
    relay.reset_at_answer(b"COMMIT\0")


def swallow(relay: Relay, dice: random.Random) -> None:
    relay.swallow_at(dice.choice((b"BEGIN", b"INSERT", b"COMMIT")), after_answer=dice.random() < 0.5)


def half_open(relay: Relay, dice: random.Random) -> None:
    relay.half_open_at(dice.choice((b"BEGIN", b"INSERT", b"COMMIT")), after_answer=dice.random() < 0.5)


def slow(relay: Relay, dice: random.Random) -> None:
    relay.split(lambda: 3)


def lost_while_idle(relay: Relay, dice: random.Random) -> None:
    relay.reset_all()


def nothing(relay: Relay, dice: random.Random) -> None:
    pass


# Those that swallow cost the whole deadline each, so they are rarer.
FAULTS = [reset] * 6 + [reset_at_the_answer_to_commit] * 3 + [slow, lost_while_idle, nothing, swallow, half_open]


@pytest.mark.timeout(120 + RUNS)
def test_every_acknowledged_row_is_there_once_and_every_unknown_one_at_most_once(
    database: Database, relay_to: Callable[[int], Relay]
) -> None:
    dice = random.Random(SEED)
    relay = relay_to(database.server.port)
    outcomes: dict[int, str] = {}
    with plain_connection(database) as conn:
        conn.execute("CREATE TABLE work (id int, run int)")  # nothing there would refuse a double

    def work(conn: psycopg.Connection[Any], number: int) -> int:
        conn.execute("INSERT INTO work VALUES (%s, 1)", [number])
        return number

    with connected(database, port=relay.port, margin=0.4, retry_burst=10 * RUNS) as db:
        for number in range(RUNS):
            relay.disarm()
            relay.split(lambda: 65536)
            dice.choice(FAULTS)(relay, dice)
            try:
                with db.invocation(Context(1.0)):
                    assert db.transaction(work, number) == number
            except tidegate.CommitOutcomeUnknown:
                outcomes[number] = "unknown"
            except psycopg.OperationalError:
                outcomes[number] = "failed"
            else:
                outcomes[number] = "done"
        relay.disarm()
    relay.close()

    def sessions() -> int:
        with database.server.connect() as admin:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
            found = admin.execute(query, [database.name]).fetchone()
        assert found is not None
        return int(found[0])

    eventually(lambda: sessions() == 0, what="the end of all lost sessions")
    with plain_connection(database) as conn:
        there = Counter(row[0] for row in conn.execute("SELECT id FROM work"))
    told = Counter(outcomes.values())
    print(f"{RUNS} runs, seed {SEED}: {dict(told)}")  # noqa: T201 -- what `make soak-layer` shows
    wrong = {
        number: (outcome, there[number])
        for number, outcome in outcomes.items()
        if there[number] not in {"done": {1}, "failed": {0}, "unknown": {0, 1}}[outcome]
    }
    assert wrong == {}
    assert sum(there.values()) <= RUNS
    # The faults were real, and most of them cured.
    assert told["unknown"] > 0
    assert told["done"] > RUNS / 2
