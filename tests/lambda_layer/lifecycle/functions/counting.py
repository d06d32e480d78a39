"""A function that tells which process and which server process served it.

What it does while it initialises, besides connecting, is in the variable `AT_INIT`:
- `query`: it asks the database something;
- `seed`: it has the random state that all environments restored from one snapshot would have;
- `handle`: it has a handler for SIGTERM of its own, which was there before the layer's.
"""

import os
import random
import signal
import sys

import tidegate


def finish(*_: object) -> None:
    print("the function's own handler ran", flush=True)  # noqa: T201
    sys.exit(0)


AT_INIT = os.environ.get("AT_INIT")

if AT_INIT == "handle":
    signal.signal(signal.SIGTERM, finish)

db = tidegate.connect()
CONNECTED_AT_INIT = "not connected" not in repr(db)

if AT_INIT == "seed":
    random.seed(20)
if AT_INIT == "query":
    with db.connection() as first:
        first.execute("SELECT 1")


@db.handler
def handler(event, context):  # type: ignore[no-untyped-def]
    with db.connection() as conn:
        [[backend, name]] = conn.execute(
            "SELECT pg_backend_pid(), current_setting('application_name') FROM pg_sleep(%s)", (event.get("sleep", 0),)
        ).fetchall()
    return {
        "pid": os.getpid(),
        "connected_at_init": CONNECTED_AT_INIT,
        "backend": backend,
        "application_name": name,
        "random": random.random(),
        "type": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"],
    }
