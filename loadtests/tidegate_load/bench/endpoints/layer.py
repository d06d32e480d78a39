"""Ways for a function to reach the database, as small programs: the layer, and what one would write without it.

Each takes what it needs from the environment, as a function does, and says "row" when it has its first row. It defines
`invocation()`, what each warm invocation does, and `socket_number()`, if there is a warm path.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version

from tidegate_load.bench.endpoints.base import Endpoint, Running, Setup, client_parameters
from tidegate_load.bench.stage import Stage

_SAY = 'print("row", flush=True)\n'

_PSYCOPG = f"""
import os, psycopg
conn = psycopg.connect(os.environ["BENCH_CONNINFO"])
def invocation():
    conn.execute("SELECT 1").fetchone()
    conn.commit()
invocation()
{_SAY}
def socket_number():
    return conn.fileno()
"""

# RDS alone can take such a token for a login; what is measured is how long it takes to have one.
_BOTO3 = f"""
import os, boto3
client = boto3.client("rds", region_name="eu-west-1")
token = client.generate_db_auth_token("db.example.com", 5432, "bench", "eu-west-1")
{_PSYCOPG}
"""

_LAYER = f"""
import tidegate
db = tidegate.connect()
def invocation():
    with db.connection() as conn:
        conn.execute("SELECT 1").fetchone()
invocation()
{_SAY}
def socket_number():
    with db.connection() as conn:
        return conn.fileno()
"""

_WRAPPER = f"""
import os, psycopg
from aws_advanced_python_wrapper import AwsWrapperConnection
conn = AwsWrapperConnection.connect(psycopg.Connection.connect, os.environ["BENCH_CONNINFO"], plugins="")
def invocation():
    cursor = conn.cursor()
    cursor.execute("SELECT 1")
    cursor.fetchone()
    conn.commit()
invocation()
{_SAY}
"""


class LayerRunning(Running):
    """A program and its environment."""

    program: str
    environment: dict[str, str]


class FunctionCode(Endpoint):
    """One such program.

    Parameters: `needs`, the module without which it cannot run; `package`, the distribution that has its version.
    """

    def __init__(self, key: str, title: str, program: str, needs: str, package: str) -> None:
        self.key = key
        self.title = title
        self._program = program
        self._needs = needs
        self._package = package

    def version(self) -> str | None:
        if self._needs and importlib.util.find_spec(self._needs) is None:
            return None
        try:
            return f"{self._package} {version(self._package)}" if self._package else ""
        except PackageNotFoundError:
            return "unknown version"

    def absence(self) -> str:
        return f"no module {self._needs} installed"

    def start(self, stage: Stage, setup: Setup) -> LayerRunning:
        parameters = client_parameters(stage, setup, stage.server.port)
        running = LayerRunning(parameters)
        running.program = self._program
        names = {"host": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD", "dbname": "DBNAME"}
        running.environment = {
            "BENCH_CONNINFO": " ".join(f"{name}={value}" for name, value in parameters.items()),
            "TIDEGATE_SSLMODE": "disable",
            # Of nobody; they are enough to sign with.
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "example",
            "AWS_EC2_METADATA_DISABLED": "true",
        } | {f"TIDEGATE_{ours}": str(parameters[name]) for name, ours in names.items()}
        return running


def function_codes() -> list[FunctionCode]:
    """All of them, present or not."""
    return [
        FunctionCode("bare", "interpreter alone", _SAY, "", ""),
        FunctionCode("layer", "Tidegate's layer", _LAYER, "tidegate", "tidegate"),
        FunctionCode("psycopg", "psycopg", _PSYCOPG, "psycopg", "psycopg"),
        FunctionCode("boto3", "boto3's token, psycopg", _BOTO3, "boto3", "boto3"),
        FunctionCode(
            "wrapper",
            "AWS Advanced Python Wrapper",
            _WRAPPER,
            "aws_advanced_python_wrapper",
            "aws-advanced-python-wrapper",
        ),
    ]
