"""Cold starts are measured for every contender, and a contender that fails is said so."""

from __future__ import annotations

import math

import pytest

from tidegate_load.bench import layer_cold


def test_every_contender_reads_its_row_in_a_fresh_interpreter() -> None:
    rounds: list[int] = []
    results = layer_cold.measure(1, progress=rounds.append)
    assert list(results) == list(layer_cold.PROGRAMS)
    assert rounds == [0, 1]
    for name, cold in results.items():
        assert len(cold.wall) == len(cold.cpu) == 1, name
        assert min(*cold.wall, *cold.cpu) > 0, name
    assert all(math.isfinite(ratio) for ratio in layer_cold.ratios(results).values())
    assert [str(cell) for cell in next(iter(layer_cold.table(results).columns)).cells] == list(results)


def test_a_contender_that_fails_is_reported_with_its_own_words() -> None:
    with pytest.raises(RuntimeError, match="no such luck"):
        layer_cold.start("raise SystemExit('no such luck')", {})
