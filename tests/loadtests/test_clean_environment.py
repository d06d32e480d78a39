"""What the shell says about the proxy, libpq, Locust, AWS and HTTP proxies does not reach what is measured."""

from __future__ import annotations

from tidegate_load.clean_environment import clean_environment

STEERING = {"TIDEGATE_HOST": "h", "PGSSLMODE": "require", "LOCUST_RUN_TIME": "1s"}
FOR_AWS = {"AWS_PROFILE": "p", "http_proxy": "http://h", "HTTPS_PROXY": "http://h", "NO_PROXY": "*"}


def test_what_stays_on_this_machine_gets_none_of_it() -> None:
    assert clean_environment({"PATH": "/bin"} | STEERING | FOR_AWS) == {"PATH": "/bin"}


def test_what_calls_aws_keeps_what_it_needs_for_that() -> None:
    assert clean_environment({"PATH": "/bin"} | STEERING | FOR_AWS, for_aws=True) == {"PATH": "/bin"} | FOR_AWS
