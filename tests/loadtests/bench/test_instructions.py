"""The core does not grow unseen: stored counts of instructions belong to these sources, and growth has a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tidegate_load.bench.instructions import BASELINE, Baseline, digests, problems, updated
from tidegate_load.bench.sequential import SCENARIOS, SequentialClient
from tidegate_load.bench.stage import BenchError, Stage

TOOLS = {"Python": "3.11"}
SOURCES = {"core/client.py": "1", "setup.py": "2"}


def figures(each: int) -> dict[str, int]:
    return dict.fromkeys(SCENARIOS, each)


def test_the_stored_figures_are_of_the_sources_that_are_here() -> None:
    stored = Baseline.load(BASELINE)
    assert stored is not None
    assert problems(stored, digests()) == []


def test_the_sources_are_all_of_the_core_and_how_it_is_compiled() -> None:
    core = "proxy/tidegate_proxy/core/"
    assert {f"{core}client.py", f"{core}client.pxd", f"{core}transport.pyx", "setup.py"} <= digests().keys()


def test_a_change_without_a_new_measurement_is_named() -> None:
    stored = updated(None, figures(1000), TOOLS, SOURCES)
    assert problems(stored, SOURCES) == []
    (changed,) = problems(stored, SOURCES | {"setup.py": "3"})
    assert changed.startswith("setup.py is not as it was when instructions were counted: run make instructions")
    (new,) = problems(stored, SOURCES | {"core/new.pyx": "4"})
    assert new.startswith("core/new.pyx is not as it was")
    (gone,) = problems(stored, {"setup.py": "2"})
    assert gone.startswith("core/client.py is not as it was")


def test_a_figure_that_was_written_by_hand_or_left_out_is_named() -> None:
    stored = updated(None, figures(1000), TOOLS, SOURCES)
    grown = replace(stored, measured=figures(1000) | {"simple": 1101})
    assert problems(grown, SOURCES) == ["simple has grown from 1000 to 1101 instructions per query"]
    left_out = replace(stored, measured={"simple": 1000, "extended": 1000})
    assert problems(left_out, SOURCES) == ["there is no figure for prepared: run make instructions"]


def test_a_tenth_more_is_allowed_and_more_needs_a_reason() -> None:
    first = updated(None, figures(1000), TOOLS, SOURCES)
    second = updated(first, figures(1100), TOOLS, SOURCES)
    assert problems(second, SOURCES) == []
    with pytest.raises(BenchError, match=r"simple has grown from 1000 to 1101 instructions per query.*GROWN="):
        updated(first, figures(1000) | {"simple": 1101}, TOOLS, SOURCES)
    third = updated(first, figures(1050) | {"simple": 1200}, TOOLS, SOURCES, "statistics per user")
    assert third.measured == figures(1050) | {"simple": 1200}
    assert third.reference == figures(1000) | {"simple": 1200}
    assert third.reasons[0].startswith("statistics per user: simple has grown from 1000 to 1200")
    assert problems(third, SOURCES) == []


def test_small_steps_do_not_add_up_unseen_and_what_was_gained_is_kept() -> None:
    second = updated(updated(None, figures(1000), TOOLS, SOURCES), figures(1090), TOOLS, SOURCES)
    assert second.reference == figures(1000)
    with pytest.raises(BenchError, match="from 1000 to 1180"):
        updated(second, figures(1180), TOOLS, SOURCES)
    less = updated(second, figures(800), TOOLS, SOURCES)
    with pytest.raises(BenchError, match="from 800 to 1000"):
        updated(less, figures(1000), TOOLS, SOURCES)


def test_other_tools_are_named_where_a_figure_has_grown() -> None:
    first = updated(None, figures(1000), TOOLS, SOURCES)
    with pytest.raises(BenchError, match=r"measured with other tools: Python was 3\.11"):
        updated(first, figures(2000), {"Python": "3.12"}, SOURCES)


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    stored = updated(None, figures(1000), TOOLS, SOURCES)
    stored.save(tmp_path / "here.json")
    assert Baseline.load(tmp_path / "here.json") == stored
    assert Baseline.load(tmp_path / "nowhere.json") is None
    (tmp_path / "here.json").write_text("{}")
    with pytest.raises(BenchError, match=r"here\.json is no baseline"):
        Baseline.load(tmp_path / "here.json")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_query_that_is_counted_brings_its_row(stage: Stage, scenario: str) -> None:
    with SequentialClient(stage.parameters(), scenario) as client:
        assert client.run(20) == 20


def test_a_query_that_fails_is_said(stage: Stage) -> None:
    with (
        pytest.raises(BenchError, match="a simple query failed: password authentication failed"),
        SequentialClient(stage.parameters() | {"password": "wrong"}, "simple"),
    ):
        pass


def test_without_valgrind_comparing_is_left_out_and_measuring_is_one_error(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tidegate_load.bench.instructions", "--output", tmp_path / "new.json", *arguments],
            env=os.environ | {"PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=220,
        )

    compared = run("--compare")
    assert compared.returncode == 0
    assert "there is no program valgrind on PATH" in compared.stdout
    measured = run()
    assert (measured.returncode, measured.stdout) == (1, "")
    assert measured.stderr.startswith("instructions: instructions are counted by valgrind, and there is no program")
    assert len(measured.stderr.splitlines()) == 1
    assert not (tmp_path / "new.json").exists()
