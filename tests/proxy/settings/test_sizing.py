"""`tidegate-proxy size`."""

from __future__ import annotations

from click.testing import CliRunner

from tidegate_proxy.cli import main
from tidegate_proxy.sizing import sizing


def test_twice_the_cores_and_the_disks_shared_by_pools_and_proxies() -> None:
    found = sizing(vcpus=4, disks=1, pools=1, proxies=1)
    assert (found.begin, found.low, found.high, found.per_pool) == (9, 8, 16, 9)
    assert sizing(vcpus=16, disks=1, pools=2, proxies=4).per_pool == 4
    assert sizing(vcpus=1, disks=0, pools=9, proxies=9).per_pool == 1


def test_the_command_says_why_and_what_to_write() -> None:
    result = CliRunner().invoke(main, ["size", "--vcpus", "4", "--disks", "1"])
    assert result.exit_code == 0
    assert "Begin with 9 server connections in all: 2 x 4 vCPUs + 1 disks." in result.output
    assert "between 8 and 16" in result.output
    assert "default_pool_size = 9 " in result.output


def test_more_than_the_server_allows_is_a_warning() -> None:
    result = CliRunner().invoke(main, ["size", "--vcpus", "64", "--max-connections", "100"])
    assert "Warning: that is up to 161 of max_connections = 100" in result.stderr
    assert CliRunner().invoke(main, ["size"]).exit_code == 2
