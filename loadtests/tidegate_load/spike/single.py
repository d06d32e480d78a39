"""One spike against a function that is already there."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from tidegate_load.spike.connections import ConnectionSampler
from tidegate_load.spike.interrupt import Interruption
from tidegate_load.spike.load import LoadSize, LoadTarget, start_locust
from tidegate_load.spike.recording import Recording, ResultReader
from tidegate_load.spike.report import load_recordings, locust_report, make_folder, raw_file, write_report
from tidegate_load.spike.terminal import LINE_INTERVAL, make_console, summary_table

TICK = 0.25


def run_single(
    target: LoadTarget,
    size: LoadSize,
    *,
    name: str,
    database: str | None,
    role: str | None,
    folder: Path,
    interruption: Interruption,
) -> Recording:
    """Run one spike, save its raw data, and write the report of all runs in `folder`.

    Parameters: `database`, connection string of the database to sample, None for none; `role`, whose connections
    are counted apart.
    Raises: StepError, psycopg.Error, InterruptedRunError.
    """
    console = make_console()
    make_folder(folder)
    recording = Recording(name, name, parameters=size.as_dict() | vars(target), function_role=role)
    results = folder / "logs" / f"{name}.csv"
    with contextlib.ExitStack() as stack:
        sampler = None
        if database is not None:
            sampler = stack.enter_context(ConnectionSampler(conninfo_to_dict(database)))
            recording.max_connections = sampler.max_connections
        began = time.time()
        locust = stack.enter_context(
            start_locust(
                target,
                size,
                results=results,
                html=locust_report(folder, name),
                log=folder / "logs" / f"locust-{name}.log",
            )
        )
        reader = stack.enter_context(contextlib.closing(ResultReader(results)))
        shown = 0.0
        while True:
            ended = locust.poll()
            recording.invocations += reader.read()
            if time.monotonic() - shown >= LINE_INTERVAL or ended is not None:
                shown = time.monotonic()
                connections = f", {sampler.last.total} connections" if sampler else ""
                console.print(
                    f"{name}: {len(recording.invocations)} done, {recording.failed} failed{connections}",
                    highlight=False,
                )
            if ended is not None:
                break
            interruption.wait(TICK)
        if ended != 0 and not recording.invocations:
            raise locust.failure("could not start")
        if ended != 0 or not recording.invocations:
            raise locust.failure(f"ended with status {ended} after {len(recording.invocations)} invocations")
        recording.cpu_seconds = {"locust": locust.cpu_seconds}
        if sampler is not None:
            recording.connections = sampler.since(began)
    recording.save(raw_file(folder, name))
    page = write_report(folder, load_recordings(folder))
    console.print(summary_table([recording]))
    console.print(f"\nReport: {page}", highlight=False, soft_wrap=True)
    return recording
