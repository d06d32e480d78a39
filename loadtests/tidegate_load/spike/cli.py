"""The command `tidegate-spike`."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tidegate_load.spike.interrupt import InterruptedRunError, Interruption

_Command = TypeVar("_Command", bound=Callable[..., Any])

SECONDS = click.FloatRange(min=0, min_open=True)
COUNT = click.IntRange(min=1)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Spikes of Lambda invocations against one PostgreSQL: run, record, judge, report."""


def _load_options(command: _Command) -> _Command:
    options = (
        click.option("--peak", type=COUNT, default=500, show_default=True, help="Invocations at once."),
        click.option("--ramp", type=SECONDS, default=3.0, show_default=True, help="Seconds up to the peak."),
        click.option("--hold", type=SECONDS, default=10.0, show_default=True, help="Least seconds at the peak."),
        click.option("--fall", type=SECONDS, default=2.0, show_default=True, help="Seconds down from the peak."),
        click.option(
            "--min-invocations",
            type=COUNT,
            default=5000,
            show_default=True,
            help="Hold the peak until as many have finished.",
        ),
        click.option(
            "--max-duration",
            type=SECONDS,
            default=40.0,
            show_default=True,
            help="Seconds after which a run falls anyway; in the demo twice as many for layer and proxy.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


_output = click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("reports"),
    show_default=True,
    help="Folder for the report and its raw data.",
)


@main.command()
@_load_options
@_output
@click.option("--max-connections", type=click.IntRange(min=5), default=100, show_default=True)
@click.option("--pool-size", type=COUNT, default=20, show_default=True, help="The proxy's server connections.")
@click.option(
    "--function-timeout",
    type=SECONDS,
    default=15.0,
    show_default=True,
    help="Seconds per invocation; twice as many for layer and proxy.",
)
@click.option(
    "--work",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Seconds that an invocation takes beside its database work.",
)
def demo(output: Path, max_connections: int, pool_size: int, function_timeout: float, work: float, **load: Any) -> None:
    """The whole idea in small, on a PostgreSQL of its own: direct, layer alone, layer and proxy.

    Exit status: 0 if every promise held, 1 if one did not or a step broke, 2 for bad options, 130 after Ctrl-C.
    """
    from tidegate_load.spike.load import LoadSize
    from tidegate_load.spike.scenario import SpikeSize

    size = SpikeSize(
        LoadSize(**load),
        max_connections=max_connections,
        pool_size=pool_size,
        function_timeout=function_timeout,
        work=work,
    )
    if pool_size >= max_connections:
        raise click.UsageError(
            f"--pool-size {pool_size} leaves nothing of --max-connections {max_connections}: make it smaller"
        )
    with _one_clear_line() as interruption:
        kept = _demo(size, output.absolute(), interruption)
    sys.exit(0 if kept else 1)


@main.command()
@_load_options
@_output
@click.option("--target", type=click.Choice(["local", "aws"]), default="local", show_default=True)
@click.option("--function", required=True, help='Name of the function; its event is {"id": N}.')
@click.option("--endpoint-url", help="Of a local Lambda service, as `tidegate-lambda serve` prints it.")
@click.option("--region", help="AWS region; by default the environment's.")
@click.option("--name", default="run", show_default=True, help="Name of the run in files and in the report.")
@click.option(
    "--read-timeout",
    type=SECONDS,
    default=60.0,
    show_default=True,
    help="Seconds to wait; above the function's.",
)
@click.option(
    "--database",
    metavar="CONNINFO",
    help='Sample this database, e.g. "host=... user=... dbname=..."; the password comes from PGPASSWORD.',
)
@click.option("--role", help="Database role of the function, whose connections are counted apart.")
def run(
    output: Path,
    target: str,
    function: str,
    endpoint_url: str | None,
    region: str | None,
    name: str,
    read_timeout: float,
    database: str | None,
    role: str | None,
    **load: Any,
) -> None:
    """One spike against a function that is there: on AWS, or in a local Lambda service.

    Exit status: 0 if it was run, whatever came of the invocations; 1 if a step broke.
    """
    from tidegate_load.spike.load import LoadSize, LoadTarget

    if target == "local" and endpoint_url is None:
        raise click.UsageError("--target local needs --endpoint-url: the URL that `tidegate-lambda serve` prints")
    if not name.replace("-", "").replace("_", "").isalnum():
        raise click.UsageError(f"--name {name!r}: use letters, digits, '-' and '_'")
    from tidegate_load.spike.single import run_single

    with _one_clear_line() as interruption:
        run_single(
            LoadTarget(function, target, endpoint_url, region),
            LoadSize(**load, read_timeout=read_timeout),
            name=name,
            database=database,
            role=role,
            folder=output.absolute(),
            interruption=interruption,
        )


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path("reports"))
def report(folder: Path) -> None:
    """Write report.html and report.png anew from the raw data in FOLDER.

    Exit status: 0; 1 if the runs of a demo are there and break a promise, or a file cannot be read.
    """
    from tidegate_load.spike.promises import DIRECT, LAYER, PROXY, demo_promises
    from tidegate_load.spike.report import load_recordings, write_report

    with _one_clear_line():
        recordings = {run.name: run for run in load_recordings(folder.absolute())}
        whole = all(name in recordings for name in (DIRECT, LAYER, PROXY))
        promises = demo_promises(recordings) if whole else []
        path = write_report(folder.absolute(), list(recordings.values()), promises)
        broken = [promise for promise in promises if not promise.kept]
    for promise in broken:
        click.echo(f"broken {promise.text}: {promise.seen}")
    click.echo(f"Report: {path}")
    sys.exit(1 if broken else 0)


def _demo(size: Any, folder: Path, interruption: Interruption) -> bool:
    from tidegate_load.clean_environment import clean_environment
    from tidegate_load.postgres import UNENCRYPTED
    from tidegate_load.spike.connections import ConnectionSampler
    from tidegate_load.spike.promises import demo_promises
    from tidegate_load.spike.report import make_folder, raw_file, write_report
    from tidegate_load.spike.scenario import SCENARIOS, Stage, start_postgres
    from tidegate_load.spike.terminal import Display, make_console, show_promises, summary_table

    console = make_console()
    console.print(
        f"{size.load.peak} invocations at once, one PostgreSQL with max_connections = {size.max_connections}",
        highlight=False,
    )
    make_folder(folder)
    # libpq reads the environment of this process too.
    for name in os.environ.keys() - clean_environment().keys():
        del os.environ[name]
    password = secrets.token_hex(8)
    recordings = {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(contextlib.closing(start_postgres(size, password)))
        interruption.check()
        sampler = stack.enter_context(ConnectionSampler(server.parameters() | UNENCRYPTED))
        display = stack.enter_context(Display(console))
        stage = Stage(server, sampler, password, size, folder, interruption, display.update)
        for scenario in SCENARIOS:
            recording = stage.run(scenario)
            recording.save(raw_file(folder, scenario.name))
            recordings[scenario.name] = recording
    promises = demo_promises(recordings)
    interruption.check()
    page = write_report(folder, list(recordings.values()), promises)
    console.print()
    console.print(summary_table(list(recordings.values())))
    console.print()
    show_promises(console, promises)
    console.print(f"\nReport: {page}", highlight=False, soft_wrap=True)
    return all(promise.kept for promise in promises)


@contextlib.contextmanager
def _one_clear_line() -> Any:
    """Run a command's body; what may go wrong ends as one line and an exit status."""
    import psycopg

    from tidegate_load.postgres import PostgresNotFoundError, PostgresStartError
    from tidegate_load.spike.processes import StepError
    from tidegate_load.spike.recording import RecordingError

    # psycopg warns through logging when a connection breaks; that is expected here and told otherwise.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    with Interruption() as interruption:
        try:
            yield interruption
        except InterruptedRunError as stop:
            click.echo("\nStopped; everything that was started has ended.", err=True)
            sys.exit(128 + stop.signal)
        except (
            StepError,
            RecordingError,
            PostgresStartError,
            PostgresNotFoundError,
            psycopg.Error,
            OSError,
        ) as error:
            line = " ".join(str(error).split())
            click.echo(f"tidegate-spike: {line}", err=True)
            sys.exit(1)


if __name__ == "__main__":
    main()
