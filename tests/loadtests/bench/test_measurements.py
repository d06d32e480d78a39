"""A run survives its file, and answers for what was measured only."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.loadtests.bench.runs import SIMPLE, made_run

from tidegate_load.bench.measurements import Failure, Run, RunFileError


def test_a_run_is_the_same_after_its_file(tmp_path: Path) -> None:
    run = made_run()
    run.failures.append(Failure("a", SIMPLE, "odyssey", 1, "it ended"))
    run.remarks.append("PgBouncer ran as a session pool")
    run.save(tmp_path / "new" / "run.json")
    assert Run.load(tmp_path / "new" / "run.json") == run


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "date": "x", "endpoints": [{"a": 1}]}']
)
def test_what_is_not_a_run_is_said_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.json"
    file.write_text(text)
    with pytest.raises(RunFileError, match="not a run of the benchmark"):
        Run.load(file)


def test_a_run_of_another_version_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text('{"format": 0}')
    with pytest.raises(RunFileError, match="run it again"):
        Run.load(file)


def test_ratios_do_not_suffer_from_a_slow_round() -> None:
    ratio = made_run().ratio("a", SIMPLE, "tidegate-compiled", "cpu")
    assert ratio is not None
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((1.05, 1.05, 1.05))


def test_what_was_not_measured_has_no_value_and_no_ratio() -> None:
    run = made_run()
    assert run.spread("a", SIMPLE, "direct", "cpu") is None
    assert run.ratio("a", SIMPLE, "direct", "cpu") is None
    assert run.spread("a", SIMPLE, "odyssey", "cpu") is None
    assert run.endpoint_keys("b") == ["pgbouncer", "tidegate-compiled"]
