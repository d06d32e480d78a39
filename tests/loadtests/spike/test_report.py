"""The report has everything that was promised, in one file, from the raw data alone."""

from __future__ import annotations

import base64
import re
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.loadtests.spike.recordings import demo

from tidegate_load.spike.cli import main
from tidegate_load.spike.figure import PANELS, compose
from tidegate_load.spike.promises import DIRECT, PROXY, demo_promises
from tidegate_load.spike.report import RAW, load_recordings, raw_file, write_report


def save_demo(folder: Path) -> None:
    (folder / RAW).mkdir(parents=True)
    for name, run in demo().items():
        run.save(raw_file(folder, name))


def test_the_picture_has_every_panel_for_every_run() -> None:
    figure = compose(list(demo().values()))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [panel for panel in PANELS for _ in range(3)]
    assert all(axes.has_data() for axes in figure.axes if axes.get_title(loc="left") != "Errors by kind")


def test_the_picture_shows_connections_against_max_connections() -> None:
    figure = compose([demo()[DIRECT]])
    (panel,) = (axes for axes in figure.axes if axes.get_title(loc="left") == "Open database connections")
    labels = [text.get_text() for text in panel.get_legend().get_texts()]
    assert labels == ["open (most: 6)", "max_connections = 6"]


def test_the_picture_has_the_three_percentiles_and_names_the_errors() -> None:
    figure = compose([demo()[DIRECT]])
    by_title = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert [text.get_text() for text in by_title["Latency (ms)"].get_legend().get_texts()] == ["p50", "p95", "p99"]
    assert "21  too many clients already" in [text.get_text() for text in by_title["Errors by kind"].texts]


def test_a_row_has_one_scale_in_all_columns() -> None:
    figure = compose(list(demo().values()))
    for title in ("Invocations per second", "Latency (ms)", "Open database connections"):
        assert len({axes.get_ylim() for axes in figure.axes if axes.get_title(loc="left") == title}) == 1


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    recordings = list(demo().values())
    page = write_report(tmp_path, recordings, demo_promises(demo())).read_text()
    picture = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert picture is not None
    assert base64.b64decode(picture[1]) == (tmp_path / "report.png").read_bytes()
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_the_page_has_the_table_the_errors_and_the_promises(tmp_path: Path) -> None:
    page = write_report(tmp_path, list(demo().values()), demo_promises(demo())).read_text()
    for text in ("direct", "layer alone", "layer and proxy", "21 of 30 (70%)", "0 of 30 (0%)", "6 of 6", "kept"):
        assert text in page
    assert "broken" not in re.sub(r"<style>.*</style>", "", page, flags=re.DOTALL)


def test_the_picture_is_large_enough_to_read(tmp_path: Path) -> None:
    write_report(tmp_path, list(demo().values()))
    width, height = struct.unpack(">II", (tmp_path / "report.png").read_bytes()[16:24])
    assert width >= 1500
    assert height >= 1500


def test_what_a_function_says_cannot_become_markup(tmp_path: Path) -> None:
    run = demo()[PROXY]
    run.invocations[0] = run.invocations[0]._replace(outcome="<script>alert(1)</script>")
    assert "<script>" not in write_report(tmp_path, [run]).read_text()


def test_a_run_on_aws_without_a_sampled_database_has_a_report_too(tmp_path: Path) -> None:
    run = demo()[PROXY]
    run.connections, run.environments, run.accounting, run.service, run.max_connections = [], [], None, {}, None
    page = write_report(tmp_path, [run]).read_text()
    assert "not sampled" in page
    assert "not counted" in page


def test_the_command_rebuilds_the_report_from_raw_data(tmp_path: Path) -> None:
    save_demo(tmp_path)
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 0
    assert result.output == f"Report: {tmp_path / 'report.html'}\n"
    assert "What was promised" in (tmp_path / "report.html").read_text()


def test_the_command_fails_and_says_which_promise_the_raw_data_breaks(tmp_path: Path) -> None:
    save_demo(tmp_path)
    run = demo()[PROXY]
    run.invocations[5] = run.invocations[5]._replace(outcome="Task timed out")
    run.save(raw_file(tmp_path, PROXY))
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.startswith("broken layer and proxy: no invocation fails: 1 of 30 failed\n")


def test_the_demos_runs_come_first_and_in_order(tmp_path: Path) -> None:
    save_demo(tmp_path)
    other = demo()[DIRECT]
    other.name = "a-run-on-aws"
    other.save(raw_file(tmp_path, other.name))
    names = [run.name for run in load_recordings(tmp_path)]
    assert names == ["direct", "layer", "layer-and-proxy", "a-run-on-aws"]


@pytest.mark.parametrize("damage", [None, "{}"])
def test_no_or_damaged_raw_data_is_one_clear_line(tmp_path: Path, damage: str | None) -> None:
    if damage is not None:
        raw_file(tmp_path, "direct").parent.mkdir()
        raw_file(tmp_path, "direct").write_text(damage)
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith("tidegate-spike: ")
    assert result.stderr.count("\n") == 1
    assert "tidegate-spike demo" in result.stderr
