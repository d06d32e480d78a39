"""The deadline travels with the transaction: the proxy keeps it for functions that no longer can."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from tests.lambda_layer.helpers import Context, connected
from tests.support.proxy import ProxyProcess, eventually

import tidegate

FROZEN = """
import json
import sys
import tidegate

class Context:
    aws_request_id = "1"
    def get_remaining_time_in_millis(self):
        return 4000

db = tidegate.connect(**json.loads(sys.argv[1]), sslmode="disable")
with db.invocation(Context()), db.connection() as conn:
    conn.execute("CREATE TABLE held (n int)")
    print("holds", flush=True)
    conn.execute("SELECT pg_sleep(60)")
"""


def test_a_frozen_function_holds_nothing_beyond_its_deadline(narrow_proxy: ProxyProcess) -> None:
    function = subprocess.Popen(
        [sys.executable, "-c", FROZEN, json.dumps(narrow_proxy.parameters)], stdout=subprocess.PIPE
    )
    try:
        assert function.stdout is not None
        assert function.stdout.readline() == b"holds\n"
        os.kill(function.pid, signal.SIGSTOP)
        with narrow_proxy.connect() as other:
            assert other.execute("SELECT to_regclass('held') IS NULL").fetchone() == (True,)
    finally:
        function.kill()
        function.communicate()


def test_a_handler_that_comes_back_too_late_learns_why(narrow_proxy: ProxyProcess) -> None:
    database = narrow_proxy.database
    with connected(database, port=narrow_proxy.port) as db:

        def take_too_long() -> None:
            with db.invocation(Context(1.5)), db.connection() as conn, narrow_proxy.connect() as other:
                conn.execute("CREATE TABLE held (n int)")
                # Our own code takes too long, and so does not notice; the proxy's only server connection comes free.
                assert other.execute("SELECT to_regclass('held') IS NULL").fetchone() == (True,)
                conn.execute("SELECT 1")

        with pytest.raises(tidegate.DeadlineExceeded):
            take_too_long()
        with db.invocation(Context()), db.connection() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
    eventually(lambda: narrow_proxy.log.count("pinned") == 0)
