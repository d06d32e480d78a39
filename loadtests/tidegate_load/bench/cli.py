"""The command `tidegate-bench`."""

from __future__ import annotations

import datetime
import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidegate_load.bench.poolers import FOLDER, SUITE

if TYPE_CHECKING:
    from tidegate_load.bench.scenarios import Sizes

COUNT = click.IntRange(min=1)
SECONDS = click.FloatRange(min=0.1)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Tidegate's proxy beside PostgreSQL itself and every pooler found on PATH, in one run."""


@main.command()
@click.option(
    "--scenario", "scenarios", multiple=True, help="Letter or name of a scenario; by default all. Repeatable."
)
@click.option(
    "--case", "words", multiple=True, help='Only cases with all these words, e.g. "plain simple". Repeatable.'
)
@click.option(
    "--endpoint", "chosen", multiple=True, help="Key of an endpoint; by default all that are present. Repeatable."
)
@click.option("--without", multiple=True, help="Key of an endpoint that is left out. Repeatable.")
@click.option("--rounds", type=COUNT, help="Rounds of each case.  [default: 5; with --quick 3]")
@click.option("--seconds", type=SECONDS, help="Seconds of each window of steady load.  [default: 3; with --quick 1]")
@click.option(
    "--clients", type=COUNT, multiple=True, help="Clients of steady load.  [default: 16 and 64; with --quick 16]"
)
@click.option("--storm", type=COUNT, help="Clients that connect at once.  [default: 500; with --quick 100]")
@click.option("--idle", type=COUNT, help="Idle clients.  [default: 5000; with --quick 500]")
@click.option("--out", type=COUNT, help="Megabytes read in bulk.  [default: 1000; with --quick 100]")
@click.option("--into", type=COUNT, help="Megabytes written in bulk.  [default: 500; with --quick 50]")
@click.option("--writers", type=COUNT, help="Clients that write.  [default: 500; with --quick 100]")
@click.option("--transactions", type=COUNT, help="Transactions of each of them.  [default: 20; with --quick 5]")
@click.option("--quick", is_flag=True, help="Small sizes: a first impression, not a result.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("reports/bench/run.json"),
    show_default=True,
    help="JSON file; plots are written beside it.",
)
@click.option("--list", "only_list", is_flag=True, help="Say what there is to choose from, and how long it takes.")
def run(
    scenarios: Sequence[str],
    words: Sequence[str],
    chosen: Sequence[str],
    without: Sequence[str],
    rounds: int | None,
    quick: bool,
    output: Path,
    only_list: bool,
    **sizes: Any,
) -> None:
    """Measure, print tables, and write JSON and plots.

    Exit status: 0; 1 if something could not be measured; 2 for bad options; 130 after Ctrl-C, with what was
    measured until then printed and written.
    """
    from rich.console import Console

    from tidegate_load.bench.endpoints import all_endpoints
    from tidegate_load.bench.measurements import EndpointInfo, Run
    from tidegate_load.bench.runner import estimate

    rounds = rounds or (3 if quick else 5)
    wanted = _sizes(quick, sizes)
    plan = _plan(scenarios, words, wanted)
    known = all_endpoints()
    if unknown := {*chosen, *without} - {endpoint.key for endpoint in known}:
        raise click.UsageError(
            f"no endpoint {min(unknown)!r}: choose from {', '.join(endpoint.key for endpoint in known)}"
        )
    known = [each for each in known if (not chosen or each.key in chosen) and each.key not in without]
    versions = {endpoint.key: endpoint.version() for endpoint in known}
    present = [endpoint for endpoint in known if versions[endpoint.key] is not None]
    console = Console(width=None if sys.stdout.isatty() else 160)
    for endpoint in known:
        version = versions[endpoint.key] or f"not present: {endpoint.absence()}"
        console.print(f"{endpoint.key:22} {version}", highlight=False)
    seconds = estimate(plan, present, wanted, rounds)
    console.print(f"About {max(1, round(seconds / 60))} min.", highlight=False)
    if only_list:
        for scenario, cases in plan:
            console.print(f"{scenario.key} {scenario.name}: {scenario.title}", highlight=False)
            for case in cases:
                console.print(f"    {case.name}", highlight=False)
        return
    if chosen and (missing := [endpoint for endpoint in known if endpoint not in present]):
        raise click.UsageError(f"{missing[0].key}: {missing[0].absence()}")
    made = Run(
        datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        _command(),
        options={"rounds": rounds} | {name: getattr(wanted, name) for name in wanted.__slots__},
        endpoints=[
            EndpointInfo(each.key, each.title, version, each.absence() if version is None else "")
            for each in [*known, *(own for scenario, _ in plan for own in scenario.own_endpoints())]
            for version in [each.version()]
        ],
    )
    sys.exit(_measure(console, made, plan, present, wanted, rounds, seconds, output.absolute()))


def _command() -> str:
    """The command that was called, without the place of its results, which is nobody's business."""
    context = click.get_current_context()
    words = ["tidegate-bench", "run"]
    for option in context.command.params:
        value = context.params[option.name or ""]
        if option.name == "output" or not value:
            continue
        if value is True:
            words.append(option.opts[0])
        for each in value if isinstance(value, tuple) else [] if value is True else [value]:
            words += [option.opts[0], str(each)]
    return shlex.join(words)


def _sizes(quick: bool, given: dict[str, Any]) -> Sizes:
    from tidegate_load.bench.scenarios import QUICK, Sizes

    values: dict[str, Any] = dict(QUICK) if quick else {}
    return Sizes(**(values | {name: value for name, value in given.items() if value}))


def _plan(scenarios: Sequence[str], words: Sequence[str], sizes: Sizes) -> Any:
    from tidegate_load.bench.scenarios import all_scenarios
    from tidegate_load.bench.targets import words_of

    known = all_scenarios()
    for name in scenarios:
        if not any(name in (each.key, each.name) for each in known):
            listed = ", ".join(f"{each.key} ({each.name})" for each in known)
            raise click.UsageError(f"no scenario {name!r}: choose from {listed}")
    plan = []
    for scenario in known:
        if scenarios and scenario.key not in scenarios and scenario.name not in scenarios:
            continue
        cases = [
            case
            for case in scenario.cases(sizes)
            if not words or any(set(each.lower().split()) <= words_of(case.name) for each in words)
        ]
        if cases:
            plan.append((scenario, cases))
    if not plan:
        raise click.UsageError("no case has these words; --list shows the cases")
    return plan


def _measure(
    console: Any, made: Any, plan: Any, present: Any, sizes: Sizes, rounds: int, seconds: float, output: Path
) -> int:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from tidegate_load.bench.machine import describe_machine
    from tidegate_load.bench.plot import draw
    from tidegate_load.bench.runner import Runner
    from tidegate_load.bench.stage import BenchError, Stage, need_open_files
    from tidegate_load.bench.table import show
    from tidegate_load.clean_environment import clean_environment
    from tidegate_load.postgres import PostgresNotFoundError, PostgresStartError
    from tidegate_load.spike.interrupt import InterruptedRunError, Interruption

    # libpq reads the environment of this process too; and psycopg warns through logging of what we tell otherwise.
    for name in os.environ.keys() - clean_environment().keys():
        del os.environ[name]
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    status = 0
    start = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn(), TimeRemainingColumn())
    with Interruption() as interruption:
        try:
            made.machine = describe_machine()
            need_open_files(max(scenario.open_files(sizes) for scenario, _ in plan))
            with Stage(interruption, scale=sizes.scale) as stage, Progress(*columns, console=console) as bar:
                task = bar.add_task("starting", total=seconds)

                def progress(what: str, done: float) -> None:
                    if what and not console.is_terminal:
                        console.print(f"[{time.monotonic() - start:5.0f} s] {what}", highlight=False, markup=False)
                    bar.update(task, advance=done, description=what or None)

                Runner(stage, made, present, sizes, rounds, progress).run(plan)
            made.complete = True
        except InterruptedRunError as stop:
            console.print("Stopped; everything that was started has ended. What was measured until then:")
            status = 128 + stop.signal
        except (BenchError, PostgresNotFoundError, PostgresStartError, OSError) as error:
            console.print(f"tidegate-bench: {' '.join(str(error).split())}", style="red", highlight=False)
            status = 1
        made.seconds = round(time.monotonic() - start, 1)
        if not made.measurements:
            for failure in made.failures:
                console.print(f"failed: {failure.case}, {failure.endpoint}: {failure.error}", highlight=False)
            return status or 1
        show(console, made, [scenario for scenario, _ in plan])
        try:
            made.save(output)
            for scenario, _ in plan:
                if scenario.key in made.scenarios():
                    draw(made, scenario, output.parent)
        except OSError as error:
            click.echo(f"tidegate-bench: the results could not be written: {error}", err=True)
            return status or 1
        console.print(f"\nResults: {output}, and a picture of each scenario beside it", highlight=False, soft_wrap=True)
    return status or (1 if made.failures else 0)


@main.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=FOLDER,
    show_default=True,
    help="Where they go. `run` looks in the default one, seen from where it is called, before it looks on PATH.",
)
@click.option("--suite", default=SUITE, show_default=True, help="Debian's suite that they come from.")
def poolers(folder: Path, suite: str) -> None:
    """Fetch the newest PgBouncer, Odyssey and pgagroal that Debian packages.

    For Debian, without root and without a change to what is installed: apt fetches them from the archive that it is set
    up with. They run with their suite's own C library and OpenSSL. Called again, it fetches only what is newer.

    Exit status: 0; 1 if they could not be had; 2 for bad options; 130 after Ctrl-C.
    """
    from tidegate_load.bench.debian import PackagesError
    from tidegate_load.bench.poolers import fetch_poolers

    try:
        versions = fetch_poolers(folder.absolute(), suite, click.echo)
    except PackagesError as error:
        click.echo(f"tidegate-bench: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("Stopped; what was there before still is.", err=True)
        sys.exit(130)
    for version in versions.values():
        click.echo(version)
    click.echo(f"Programs: {folder / 'bin'}")


@main.command()
@click.argument("file", metavar="JSON", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("docs/performance.md"),
    show_default=True,
    help="The page; its pictures go to a folder of the same name beside it.",
)
@click.option(
    "--notes",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("docs/performance_notes.md"),
    show_default=True,
    help="Markdown written by hand that the page includes, if the file is there.",
)
def page(file: Path, output: Path, notes: Path) -> None:
    """Write the page on performance from the JSON file of a run.

    Exit status: 0; 1 if a file cannot be read or written.
    """
    from tidegate_load.bench.measurements import Run, RunFileError
    from tidegate_load.bench.page import write_page

    try:
        write_page(Run.load(file.absolute()), output.absolute(), notes.read_text() if notes.exists() else "")
    except (RunFileError, OSError) as error:
        click.echo(f"tidegate-bench: {error}", err=True)
        sys.exit(1)
    click.echo(f"Page: {output}")


if __name__ == "__main__":
    main()
