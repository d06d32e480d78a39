"""A function as a user of the layer writes it; it says where everything came from."""

import sys

import psycopg

import tidegate

db = tidegate.connect()


@db.handler
def handler(event, context):  # type: ignore[no-untyped-def]
    with db.connection() as conn:
        pid, implementation = conn.info.backend_pid, psycopg.pq.__impl__
        [answer] = conn.execute("SELECT %s::text", (event["text"],)).fetchall()
    return {
        "answer": answer[0],
        "pid": pid,
        "implementation": implementation,
        "files": [module.__file__ for module in (tidegate, psycopg)],
        "path": sys.path,
    }
