"""What a cold start costs: `python -m tidegate_load.bench.layer_cold`.

Each measurement is a fresh interpreter that imports its driver, logs in and reads one row; the clock runs from before
the process is started until the row is there. All contenders take turns within one run, so that a busy machine slows
all of them alike.

The layer is run from its zip, built and unpacked as Lambda has it. The others come from this environment, once with
their bytecode and once, as usual in Lambda, without that of psycopg: SAM, Serverless and others date every file in a
function's zip to a fixed day, so Python rejects the bytecode of pip, and /var/task cannot be written to
(aws/aws-lambda-builders issue 924, serverless/serverless issue 13889). boto3, which Lambda's runtime has, keeps it.

PostgreSQL here cannot verify tokens of RDS, so it lets the benchmark's user in without asking: tokens are signed and
sent to nobody, and log-in costs the same for all. TLS is off for all for the same reason: it would be the same
handshake in the same libpq.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tidegate_load.clean_environment import clean_environment
from tidegate_load.postgres import EmbeddedPostgres

USER = DATABASE = "bench"
ROUNDS = 15
TIMEOUT = 60.0

# The host that tokens are signed for; the connection goes to loopback.
TOKEN_HOST = "shop.cluster-c0ffee.eu-west-1.rds.amazonaws.com"  # noqa: S105 (not a secret)

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "ASIAEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "example",
    "AWS_SESSION_TOKEN": "example" * 50,
    "AWS_REGION": "eu-west-1",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

_ROW = """
    row = conn.execute("SELECT 1").fetchone()
assert row == (1,)
import time
print(time.clock_gettime(time.CLOCK_MONOTONIC))
"""

_TIDEGATE = (
    """
import tidegate
db = tidegate.connect()
with db.connection() as conn:"""
    + _ROW
    + """
import sys
assert "tidegate.signing" in sys.modules, "no token was signed"
"""
)

_BOTO3 = (
    """
import os, boto3, psycopg
token = boto3.client("rds").generate_db_auth_token(os.environ["TOKEN_HOST"], 5432, os.environ["PGUSER"])
with psycopg.connect(password=token) as conn:"""
    + _ROW
)

_PSYCOPG = (
    """
import psycopg
with psycopg.connect() as conn:"""
    + _ROW
)

_WRAPPER = (
    """
import os, psycopg
from aws_advanced_python_wrapper import AwsWrapperConnection
parameters = {name: os.environ["PG" + name.upper()] for name in ("host", "port", "user")}
with AwsWrapperConnection.connect(
    psycopg.Connection.connect, dbname=os.environ["PGDATABASE"], plugins="iam", wrapper_dialect="pg",
    iam_host=os.environ["TOKEN_HOST"], iam_region=os.environ["AWS_REGION"], **parameters
) as conn:"""
    + _ROW
)

TIDEGATE, BOTO3, PASSWORD, WRAPPER = "tidegate, IAM", "boto3 + psycopg, IAM", "psycopg, password", "AWS wrapper, IAM"
DEPLOYED = ", deployed"
"""Ends the name of a contender whose psycopg has no bytecode that is valid."""

PROGRAMS: Mapping[str, str] = {
    TIDEGATE: _TIDEGATE,
    BOTO3: _BOTO3,
    PASSWORD: _PSYCOPG,
    WRAPPER: _WRAPPER,
    BOTO3 + DEPLOYED: _BOTO3,
    PASSWORD + DEPLOYED: _PSYCOPG,
    WRAPPER + DEPLOYED: _WRAPPER,
}
"""What is compared, by name: a Python program that prints when it had its row."""

IN_FUNCTION = (
    "psycopg",
    "psycopg_binary",
    "psycopg_binary.libs",
    "typing_extensions.py",
    "aws_advanced_python_wrapper",
)
"""What a function brings along, of what the contenders import directly; by name in site-packages."""

VARIABLES: Mapping[str, Mapping[str, str]] = {
    TIDEGATE: {"TIDEGATE_AUTH": "rds-iam"},
    PASSWORD: {"PGPASSWORD": "example"},
    PASSWORD + DEPLOYED: {"PGPASSWORD": "example"},
}


@dataclass(frozen=True)
class Cold:
    """Cold starts of one contender, in milliseconds, in the order in which they ran.

    - `wall`: from starting the process to the row. `cpu`: of the process, from its start to its end.
    """

    wall: list[float]
    cpu: list[float]


def measure(rounds: int = ROUNDS, *, progress: Callable[[int], None] = lambda _: None) -> dict[str, Cold]:
    """Measure every contender `rounds` times in turn, after one round that only warms caches.

    Returns: by name, in the order of `PROGRAMS`.
    Raises: RuntimeError with its error output, if a program fails.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedPostgres("18", hba=("host all all 127.0.0.1/32 trust",)) as server,
    ):
        layer, function = _layer(Path(folder)), _function(Path(folder))
        server.create_user(USER, "example")
        server.create_database(DATABASE, owner=USER)
        parameters = server.parameters(user=USER, dbname=DATABASE)
        environment = clean_environment() | CREDENTIALS
        environment |= {
            "PYTHONDONTWRITEBYTECODE": "1",
            "PGHOST": str(parameters["host"]),
            "PGPORT": str(parameters["port"]),
            "PGUSER": USER,
            "PGDATABASE": DATABASE,
            "PGSSLMODE": "disable",
            "TOKEN_HOST": TOKEN_HOST,
        }
        installed = sysconfig.get_path("purelib")
        results = {name: Cold([], []) for name in PROGRAMS}
        for number in range(rounds + 1):
            for name, program in PROGRAMS.items():
                path = (
                    [layer] if name == TIDEGATE else [function, installed] if name.endswith(DEPLOYED) else [installed]
                )
                variables = {"PYTHONPATH": os.pathsep.join(map(str, path)), **VARIABLES.get(name, {})}
                wall, cpu = start(program, environment | variables)
                if number:
                    results[name].wall.append(wall)
                    results[name].cpu.append(cpu)
            progress(number)
    return results


def start(program: str, environment: Mapping[str, str]) -> tuple[float, float]:
    """One fresh interpreter. Returns: (wall, cpu) in milliseconds. Raises: RuntimeError."""
    # Without the .pth files of a development environment, which Lambda has none of; they cost ten milliseconds.
    command = [sys.executable, "-S", "-c", program]
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    with subprocess.Popen(
        command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # Both are a few lines at most, so that reading one to its end cannot block on the other.
        output, errors = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"a contender failed:\n{errors}")
    return (float(output.split()[-1]) - before) * 1000, (usage.ru_utime + usage.ru_stime) * 1000


def _layer(folder: Path) -> Path:
    """The layer for this interpreter and machine, unpacked; what it puts on the path."""
    found = importlib.util.find_spec("tidegate")
    assert found is not None
    assert found.origin is not None
    build = Path(found.origin).parents[1] / "build_layer.py"
    arch = {"x86_64": "x86_64", "aarch64": "arm64"}[platform.machine()]
    command = [sys.executable, str(build), "--arch", arch, "--python", "{}.{}".format(*sys.version_info)]
    done = subprocess.run([*command, "--output", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the layer could not be built:\n{done.stderr}")
    [zipped] = folder.glob("*.zip")
    shutil.unpack_archive(zipped, folder / "opt")
    return folder / "opt/python"


def _function(folder: Path) -> Path:
    """A function's own packages, without bytecode."""
    target = folder / "task"
    target.mkdir()
    for name in IN_FUNCTION:
        source = Path(sysconfig.get_path("purelib")) / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return target


def ratios(results: Mapping[str, Cold]) -> dict[str, float]:
    """The ratios that have targets, of medians of wall time.

    - `boto3_to_tidegate`: at least 3. `boto3_deployed_to_tidegate`: the same, with a function's psycopg as in Lambda.
    - `tidegate_to_password`: at most 1.15.
    """
    median = {name: statistics.median(cold.wall) for name, cold in results.items()}
    return {
        "boto3_to_tidegate": median[BOTO3] / median[TIDEGATE],
        "boto3_deployed_to_tidegate": median[BOTO3 + DEPLOYED] / median[TIDEGATE],
        "tidegate_to_password": median[TIDEGATE] / median[PASSWORD],
    }


def table(results: Mapping[str, Cold]) -> Table:
    """For the terminal."""
    found = Table(title="Fresh interpreter to first row")
    for column in ("", "median ms", "best ms", "CPU ms", "to tidegate"):
        found.add_column(column, justify="right" if column else "left")
    ours = statistics.median(results[TIDEGATE].wall)
    for name, cold in results.items():
        median = statistics.median(cold.wall)
        cells = (median, min(cold.wall), statistics.median(cold.cpu))
        found.add_row(name, *(f"{cell:.0f}" for cell in cells), f"{median / ours:.2f}")
    return found


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, show_default=True)
def main(rounds: int) -> None:
    """Compare cold starts."""
    results = measure(rounds)
    console = Console()
    console.print(table(results))
    found = ratios(results)
    console.print(f"boto3 / tidegate: {found['boto3_to_tidegate']:.2f} (target: at least 3)")
    console.print(f"boto3, deployed / tidegate: {found['boto3_deployed_to_tidegate']:.2f} (target: at least 3)")
    console.print(f"tidegate / password: {found['tidegate_to_password']:.2f} (target: at most 1.15)")


if __name__ == "__main__":
    main()
