"""What is measured, one module for each question."""

from __future__ import annotations

from tidegate_load.bench.scenarios.base import QUICK, Case, Scenario, Sizes
from tidegate_load.bench.scenarios.queries import Queries

__all__ = ["QUICK", "Case", "Scenario", "Sizes", "all_scenarios"]


def all_scenarios() -> list[Scenario]:
    """Every scenario, in the order in which they run."""
    return [Queries()]
