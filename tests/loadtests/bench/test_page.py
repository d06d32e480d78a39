"""The page says what was measured, on what, and what was not."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from tests.loadtests.bench.runs import SIMPLE, made_run

from tidegate_load.bench.measurements import Failure
from tidegate_load.bench.page import write_page
from tidegate_load.bench.scenarios import all_scenarios
from tidegate_load.bench.table import show

PNG = b"\x89PNG"


def test_the_page_has_numbers_targets_machine_and_pictures(tmp_path: Path) -> None:
    write_page(made_run(), tmp_path / "docs" / "performance.md")
    text = (tmp_path / "docs" / "performance.md").read_text()
    assert "| cores | 2 |" in text
    assert f"| CPU per query, {SIMPLE} | ≤ 1.1 of PgBouncer's | 1.05 (1.05…1.05) | met |" in text
    assert f"| throughput, {SIMPLE} | ≥ 0.95 of PgBouncer's | 0.90 (0.90…0.90) | **not met** |" in text
    assert f"| {SIMPLE} | Tidegate compiled | 16.8 (16.8…25.2; ratio 1.05) |" in text
    for name in ("queries", "storm"):
        assert f"(performance/{name}.png)" in text
        assert (tmp_path / "docs" / "performance" / f"{name}.png").read_bytes().startswith(PNG)


def test_the_page_names_what_is_missing(tmp_path: Path) -> None:
    run = made_run()
    run.complete = False
    run.failures.append(Failure("a", SIMPLE, "tidegate-interpreted", 2, "Tidegate interpreted ended: out of memory"))
    run.remarks.append("queries: PgBouncer ran as a session pool")
    write_page(run, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "stopped before its end" in text
    assert "- Odyssey: no program odyssey on PATH." in text
    assert "- queries: PgBouncer ran as a session pool." in text
    assert "failed: Tidegate interpreted ended: out of memory" in text


def test_what_is_written_by_hand_is_included_as_it_is(tmp_path: Path) -> None:
    notes = "## Where the time goes\n\nMost of it in the kernel."
    write_page(made_run(), tmp_path / "page.md", notes)
    assert f"\n\n{notes}\n\n" in (tmp_path / "page.md").read_text()


def test_the_terminal_shows_medians_ratios_and_what_failed() -> None:
    run = made_run()
    run.failures.append(Failure("a", SIMPLE, "tidegate-interpreted", 2, "out of memory"))
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as captured:
        show(console, run, all_scenarios())
    text = captured.get()
    assert "16.8 (1.05)" in text
    assert "Odyssey is not part of this run: no program odyssey on PATH" in text
    assert "out of memory" in text
