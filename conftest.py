"""Fixtures live in topic plugins under tests/support."""

pytest_plugins = [
    "tests.proxy.building.header",
    "tests.support.postgres",
    "tests.support.relay",
    "tests.support.proxy",
    "tests.support.dns",
    "tests.support.slowdown",
]
