"""The simulated fleet keeps the proxy's promises, and the command shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tidegate_load.simulate.cli import above_budget, main
from tidegate_load.simulate.fleet import SCENARIO, SECONDS, Event, Simulation, settled_after


@pytest.mark.parametrize("seed", [2, 3])
def test_a_large_fleet_never_exceeds_the_budget_and_settles(seed: int) -> None:
    samples = Simulation(SCENARIO, seed=seed).run(SECONDS)
    assert max(sample.members for sample in samples) == 200
    assert above_budget(samples) == 0
    for event, end in zip(SCENARIO, [*(event.at for event in SCENARIO[1:]), SECONDS], strict=True):
        assert settled_after(samples, event.at, end) < 40, event.what
    # A fleet looks 50 times a second at most; each look may be followed by a claim.
    assert sum(sample.queries for sample in samples) / len(samples) < 100


def test_a_small_fleet_settles_within_seconds_of_a_death() -> None:
    events = [Event(0, "", join=5, clients=4000), Event(30, "", die=2)]
    samples = Simulation(events, max_connections=60, percent=80, used_by_client=0.05).run(60)
    assert max(sample.connections for sample in samples) <= 48
    assert settled_after(samples, 30, 60) < 10


def test_the_command_writes_its_picture(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--plot", str(tmp_path / "made" / "fleet.png")])
    assert result.exit_code == 0, result.output
    assert "The budget was never exceeded." in result.output
    assert (tmp_path / "made" / "fleet.png").read_bytes().startswith(b"\x89PNG")
