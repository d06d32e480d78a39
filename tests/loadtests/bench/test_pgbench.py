"""pgbench's logs are read as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate_load.bench.pgbench import Transaction, read_log
from tidegate_load.bench.scenarios.writes import judge
from tidegate_load.bench.stage import BenchError


def test_every_line_of_every_log_is_a_transaction(tmp_path: Path) -> None:
    (tmp_path / "transactions.17").write_bytes(b"3 1 2500 0 1700000000 250000\n")
    (tmp_path / "transactions.17.1").write_bytes(b"4 1 1000 0 1700000001 0\n")
    assert read_log(tmp_path) == [Transaction(3, 1700000000.25, 2.5), Transaction(4, 1700000001.0, 1.0)]


def test_a_failed_transaction_is_an_error_and_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "transactions.17").write_bytes(b"3 1 failed 0 1700000000 250000\n")
    with pytest.raises(BenchError, match="failed"):
        read_log(tmp_path)


def test_fairness_is_the_slowest_client_to_the_median_one() -> None:
    log = [
        Transaction(0, 10.0, 1000.0),
        Transaction(0, 11.0, 1000.0),
        Transaction(1, 11.0, 2000.0),
        Transaction(2, 14.0, 5000.0),
    ]
    assert judge(log) == {"total": 5.0, "p99": 5000.0, "fairness": 2.5}


def test_an_empty_log_is_an_error() -> None:
    with pytest.raises(BenchError, match="no transaction"):
        judge([])
