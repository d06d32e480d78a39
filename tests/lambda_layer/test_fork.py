"""A connection that was opened before a fork belongs to the parent: the child says nothing on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.postgres import Database

LAYER = Path(__file__).parents[2] / "lambda_layer"

PROGRAM = """
import os, tidegate

db = tidegate.connect()

def pid():
    with db.connection() as conn:
        return conn.execute("SELECT pg_backend_pid()").fetchone()[0]

opened = pid()
child = os.fork()
if child == 0:
    first, again = pid(), pid()
    db.close()
    os._exit(0 if first != opened and first == again else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, "the child did not get one connection of its own"
child = os.fork()
if child == 0:
    db.close()
    os._exit(0)
os.waitpid(child, 0)
assert pid() == opened, "the parent's connection was lost"
db.close()
"""


def test_a_forked_child_opens_its_own_connection_and_leaves_the_parents_alone(database: Database) -> None:
    parameters = database.parameters
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(LAYER),
        "PGHOST": str(parameters["host"]),
        "PGPORT": str(parameters["port"]),
        "PGDATABASE": database.name,
        "PGUSER": database.user,
        "PGPASSWORD": database.password,
        "PGSSLMODE": "disable",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, env=environment, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
