"""How many instructions the proxy executes for a query: a number without noise, kept in the repository.

Valgrind's callgrind counts them in user space, within what serves sockets that are ready, in two runs of different
lengths; their difference is that of the queries alone. (A turn of the event loop is not counted: how many there are
depends on how soon PostgreSQL answers.) The stored figures say of which sources they are, so that no change of the core
passes the tests without a new measurement, and a measurement that has grown by more than a tenth needs a reason.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import click

from tidegate_load.bench.endpoints.base import PoolerProcess, Setup, client_parameters
from tidegate_load.bench.endpoints.tidegate import CORE, Tidegate
from tidegate_load.bench.sequential import SCENARIOS, SequentialClient
from tidegate_load.bench.stage import HOST, BenchError, Stage
from tidegate_load.clean_environment import clean_environment
from tidegate_load.postgres import PostgresNotFoundError, PostgresStartError, free_port
from tidegate_load.spike.interrupt import InterruptedRunError, Interruption

ROOT: Final = Path(__file__).parents[3]
BASELINE: Final = ROOT / "loadtests/baselines/instructions.json"
GROWTH: Final = 1.10
"""How many times the reference a figure may be without a reason."""

# As Cython names Poller._serve of core/transport.pyx.
_COUNTED: Final = "__pyx_f_14tidegate_proxy_4core_9transport_6Poller__serve"
_COMMAND: Final = "make instructions"
_CORE_FOLDER: Final = "proxy/tidegate_proxy/core"
_WARM_UP, _SHORT, _LONG, _ROUNDS = 300, 100, 300, 8
_START_TIMEOUT = 120.0  # seconds; under valgrind everything takes fifty times as long


@dataclass(frozen=True)
class Baseline:
    """The stored figures, in instructions per query, by scenario.

    `measured` last; `reference`, what growth is measured against: the least that was ever measured, or what an entry
    of `reasons` allows, so that many small steps do not add up unseen. `tools`, with which it was measured;
    `sources`, SHA-256 of each file of the core, and of setup.py, which says how it is compiled.
    """

    measured: dict[str, int]
    reference: dict[str, int]
    tools: dict[str, str]
    sources: dict[str, str]
    reasons: list[str] = field(default_factory=list)
    command: str = _COMMAND

    @classmethod
    def load(cls, path: Path) -> Baseline | None:
        """Read it; None if there is none. Raises: BenchError when the file is no baseline."""
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise BenchError(f"{path.name} is no baseline of instructions: {error}") from None

    def save(self, path: Path) -> None:
        """Write it. Raises: OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")


def digests(root: Path = ROOT) -> dict[str, str]:
    """SHA-256 of everything that decides what the core does, by path."""
    files = [path for path in (root / _CORE_FOLDER).iterdir() if path.suffix in (".py", ".pxd", ".pyx")]
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted([*files, root / "setup.py"])
    }


def problems(baseline: Baseline, sources: Mapping[str, str]) -> list[str]:
    """What is wrong with stored figures beside these sources, each in a line; nothing if they may stay."""
    found = [
        f"{name} is not as it was when instructions were counted: run {_COMMAND} and commit what it writes"
        for name in sorted(baseline.sources.keys() | sources.keys())
        if baseline.sources.get(name) != sources.get(name)
    ]
    for scenario in SCENARIOS:
        if scenario not in baseline.measured or scenario not in baseline.reference:
            found.append(f"there is no figure for {scenario}: run {_COMMAND}")
        elif baseline.measured[scenario] > baseline.reference[scenario] * GROWTH:
            found.append(_grown(scenario, baseline.reference[scenario], baseline.measured[scenario]))
    return found


def updated(
    before: Baseline | None, measured: dict[str, int], tools: dict[str, str], sources: dict[str, str], reason: str = ""
) -> Baseline:
    """The baseline after a new measurement.

    Parameters: `reason`, why it may have grown, which makes what has grown its own new reference.
    Raises: BenchError when a figure has grown by more than a tenth and no reason is given.
    """
    if before is None:
        return Baseline(measured, dict(measured), tools, sources)
    reference, reasons, grown = {}, before.reasons, []
    for scenario, figure in measured.items():
        known = before.reference.get(scenario, figure)
        reference[scenario] = min(figure, known)
        if figure > known * GROWTH:
            reference[scenario] = figure
            grown.append(_grown(scenario, known, figure))
    if grown and not reason:
        other = [f"{name} was {before.tools.get(name)}" for name in tools if before.tools.get(name) != tools[name]]
        note = f" (measured with other tools: {', '.join(other)})" if other else ""
        raise BenchError(f'{"; ".join(grown)}{note}: make it less, or run {_COMMAND} GROWN="the reason"')
    if grown:
        reasons = [*reasons, f"{reason}: {'; '.join(grown)}"]
    return Baseline(measured, reference, tools, sources, reasons)


def _grown(scenario: str, reference: int, measured: int) -> str:
    return f"{scenario} has grown from {reference} to {measured} instructions per query"


def need_tools(root: Path = ROOT) -> None:
    """Raises: BenchError when valgrind is missing, or the compiled core, or when that is not of the sources here."""
    for program in ("valgrind", "vgdb"):
        if shutil.which(program) is None:
            raise BenchError(
                f"instructions are counted by valgrind, and there is no program {program} on PATH: apt install valgrind"
            )
    record = root / _CORE_FOLDER / "compiled/SOURCES"
    if not record.exists() or record.read_text() != "".join(f"{d}  {name}\n" for name, d in digests(root).items()):
        raise BenchError("the core is not compiled, or not of the sources that are here: run make build")


def measure(stage: Stage) -> dict[str, int]:
    """Instructions per query of each scenario, by the compiled core.

    Raises: BenchError when the proxy or valgrind fails; see `need_tools` for what must be there.
    """
    setup = Setup(clients=10, prepared=True, pool_size=1)
    figures = {}
    with _counted_proxy(stage, setup) as (process, port, counts):
        for scenario in SCENARIOS:
            # What timers do meanwhile is in one round and not in another.
            rounds = _rounds(stage, scenario, client_parameters(stage, setup, port), process, counts)
            figures[scenario] = round(statistics.median(rounds))
    return figures


def _rounds(
    stage: Stage, scenario: str, parameters: dict[str, Any], process: PoolerProcess, counts: Path
) -> Iterator[int]:
    with SequentialClient(parameters, scenario) as client:
        client.run(_WARM_UP)
        for _ in range(_ROUNDS):
            stage.interruption.check()
            _count(process, counts)
            client.run(_SHORT)
            short = _count(process, counts)
            client.run(_LONG)
            yield round((_count(process, counts) - short) / (_LONG - _SHORT))


@contextlib.contextmanager
def _counted_proxy(stage: Stage, setup: Setup) -> Iterator[tuple[PoolerProcess, int, Path]]:
    """The proxy under callgrind, its port, and the file whose name begins those of its counts."""
    endpoint = Tidegate("compiled")
    folder = stage.new_folder("instructions")
    port = free_port()
    counts = folder / "callgrind"
    valgrind: list[str | Path] = [
        "valgrind",
        "--tool=callgrind",
        f"--callgrind-out-file={counts}",
        f"--toggle-collect={_COUNTED}",
    ]
    process = PoolerProcess(
        "the proxy under valgrind",
        [*valgrind, *endpoint.command(stage, setup, folder, port)],
        folder / "output.log",
        # The order of sets and dictionaries costs or saves some.
        environment={CORE: "compiled", "PYTHONHASHSEED": "0"},
    )
    try:
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            with process.named(), contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=5):
                break
            if time.monotonic() > deadline:
                raise BenchError(f"the proxy under valgrind accepted nobody within {_START_TIMEOUT:.0f} s")
            stage.interruption.wait(0.1)
        yield process, port, counts
    finally:
        process.stop()


def _count(process: PoolerProcess, counts: Path) -> int:
    """Instructions since the last count, or since the start."""
    before = set(counts.parent.iterdir())
    with process.named():
        done = subprocess.run(
            ["vgdb", f"--pid={process.pid}", "dump"], capture_output=True, text=True, check=False, timeout=60
        )
    files = [path for path in counts.parent.iterdir() if path not in before and path.name.startswith(counts.name)]
    if done.returncode or len(files) != 1:
        said = " ".join(f"{done.stdout} {done.stderr}".split())
        raise BenchError(f"valgrind did not say how many instructions it counted: {said or 'it said nothing'}")
    for line in files[0].read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == "totals":
            return int(value)
    raise BenchError(f"valgrind wrote no totals to {files[0].name}")


def describe_tools() -> dict[str, str]:
    """Name and version of everything that the figures depend on, besides the sources."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]

    def first_line(*command: str) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        except OSError:
            return "not present"
        return done.stdout.partition("\n")[0].strip()

    return {
        "architecture": platform.machine(),
        "C compiler": first_line(compiler, "--version"),
        "Python": platform.python_version(),
        "valgrind": first_line("valgrind", "--version"),
    } | {name: metadata.version(name) for name in ("cython", "uvloop")}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--grown", envvar="GROWN", default="", help="Why more instructions are right; kept with the figures.")
@click.option("--compare", is_flag=True, help="Only show them beside the stored figures; write nothing.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=BASELINE,
    help="The stored figures.  [default: loadtests/baselines/instructions.json]",
)
def main(grown: str, compare: bool, output: Path) -> None:
    """Count the instructions that the proxy's compiled core executes for a query, and store them.

    Exit status: 0; 1 if it could not be measured, or has grown by more than a tenth without a reason. With
    --compare a missing valgrind is no error.
    """
    for name in os.environ.keys() - clean_environment().keys():
        del os.environ[name]
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    try:
        before = Baseline.load(output)
        sources = digests()
        if compare and shutil.which("valgrind") is None:
            click.echo("Instructions per query are not counted: there is no program valgrind on PATH.")
            return
        need_tools()
        with Interruption() as interruption, Stage(interruption, scale=1, max_connections=20) as stage:
            measured = measure(stage)
        for scenario, figure in measured.items():
            reference = f"  ({figure / before.reference[scenario]:.2f} of the reference)" if before else ""
            click.echo(f"{scenario:10} {figure:8,} instructions per query{reference}")
        if not compare:
            updated(before, measured, describe_tools(), sources, grown.strip()).save(output)
            click.echo(f"Stored in {output.name}: commit it with the change.")
    except InterruptedRunError as stop:
        sys.exit(128 + stop.signal)
    except (BenchError, PostgresNotFoundError, PostgresStartError, OSError) as error:
        click.echo(f"instructions: {' '.join(str(error).split())}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
