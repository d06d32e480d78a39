"""The endpoints that are compared: PostgreSQL itself, Tidegate, and every pooler found on PATH."""

from __future__ import annotations

from tidegate_load.bench.endpoints.base import Endpoint, Running, Setup
from tidegate_load.bench.endpoints.direct import Direct
from tidegate_load.bench.endpoints.odyssey import Odyssey
from tidegate_load.bench.endpoints.pgagroal import Pgagroal
from tidegate_load.bench.endpoints.pgbouncer import PgBouncer
from tidegate_load.bench.endpoints.pgcat import PgCat
from tidegate_load.bench.endpoints.tidegate import Tidegate

__all__ = ["Endpoint", "Running", "Setup", "all_endpoints"]


def all_endpoints() -> list[Endpoint]:
    """Every endpoint that is known, present or not, in the order of tables and plots."""
    return [Direct(), PgBouncer(), Tidegate("compiled"), Tidegate("interpreted"), Odyssey(), Pgagroal(), PgCat()]
