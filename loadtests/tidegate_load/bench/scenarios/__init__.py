"""What is measured, one module for each question."""

from __future__ import annotations

from tidegate_load.bench.scenarios.base import QUICK, Case, Scenario, Sizes
from tidegate_load.bench.scenarios.bulk import Bulk
from tidegate_load.bench.scenarios.idle import Idle
from tidegate_load.bench.scenarios.layer import Layer
from tidegate_load.bench.scenarios.queries import Queries
from tidegate_load.bench.scenarios.sessions import Sessions
from tidegate_load.bench.scenarios.storm import Storm
from tidegate_load.bench.scenarios.writes import Writes

__all__ = ["QUICK", "Case", "Scenario", "Sizes", "all_scenarios"]


def all_scenarios() -> list[Scenario]:
    """Every scenario, in the order in which they run."""
    return [Queries(), Storm(), Idle(), Bulk(), Writes(), Layer(), Sessions()]
