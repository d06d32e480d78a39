"""One stage per test process: starting PostgreSQL and filling it takes longer than most measurements."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tidegate_load.bench.stage import Stage
from tidegate_load.spike.interrupt import Interruption


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """PostgreSQL with pgbench's tables at their smallest."""
    with Stage(Interruption(), scale=1, max_connections=100) as made:
        yield made
