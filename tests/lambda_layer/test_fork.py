"""A connection that was opened before a fork belongs to the parent: the child says nothing on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.lambda_layer.helpers import plain_connection
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

IN_BLOCK = """
import os, psycopg, tidegate

db = tidegate.connect()
runs = 0

def ask(conn):
    return conn.execute("SELECT pg_backend_pid()").fetchone()[0]

def in_child(conn):
    global runs
    runs += 1
    conn.execute("INSERT INTO work VALUES (1)")
    if os.fork():
        os.wait()
    elif how == "uses it":
        conn.execute("SELECT 1")
    elif how == "raises":
        raise ZeroDivisionError

for how in ("returns", "uses it", "raises"):
    for form in ("connection", "transaction"):
        parent, runs = os.getpid(), 0
        with db.connection() as conn:
            opened = ask(conn)
        try:
            if form == "transaction":
                db.transaction(in_child)
            else:
                with db.connection() as conn:
                    in_child(conn)
        except (psycopg.OperationalError if how != "raises" else ZeroDivisionError) as error:
            assert os.getpid() != parent, error
        if os.getpid() != parent:
            with db.connection() as conn:
                own = ask(conn)
            db.close()
            os._exit(0 if own != opened and runs == 1 else 1)
        with db.connection() as conn:
            assert ask(conn) == opened, "the parent's connection was lost"
db.close()
"""


def test_a_forked_child_opens_its_own_connection_and_leaves_the_parents_alone(database: Database) -> None:
    run(PROGRAM, database)


def test_a_fork_in_a_block_leaves_the_transaction_to_the_parent_and_the_child_runs_nothing_again(
    database: Database,
) -> None:
    with plain_connection(database) as conn:
        conn.execute("CREATE TABLE work (id int)")
    run(IN_BLOCK, database)
    with plain_connection(database) as conn:
        assert conn.execute("SELECT count(*) FROM work").fetchone() == (6,)


def run(program: str, database: Database) -> None:
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
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, env=environment, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
