"""docs/drivers.md, made from what is installed and from what the tests are called: `python -m tests.drivers.page`."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parent

_INTRODUCTION = """\
# Drivers

<!-- Generated: python -m tests.drivers.page > docs/drivers.md -->

These drivers do ordinary and awkward work in `tests/drivers`, once directly on PostgreSQL 18 and once through the
proxy in transaction mode, with one or two server connections for all clients together. Both must give the same
results. No driver needs a setting of its own for the proxy: prepared statements, statement caches, pools and their
reset queries stay as they are.
"""

_DIFFERENCES = """
## Known differences

- The process id that a driver reports (psycopg's `info.backend_pid`, asyncpg's `get_server_pid()`, node-postgres's
  `processID`) is the proxy's number for this client, made for cancelling. `SELECT pg_backend_pid()` tells the server
  process of the transaction under way, which may be another one next time; that is the one to look for in
  `pg_stat_activity`.
- When PostgreSQL ends a server connection that no transaction is using, the client does not notice: it gets another
  one with its next transaction. Health checks such as SQLAlchemy's `pool_pre_ping` and Django's
  `CONN_HEALTH_CHECKS` find the connection alive.
- Whoever listens, holds a session's advisory lock, has a temporary table or a cursor `WITH HOLD` (Django's
  `iterator()` outside of `atomic()` declares one) keeps a server connection for as long as that exists.
  `default_pool_size` must leave room for such clients.

## By hand

pgjdbc needs Java, which the tests do not install. Version 42.5.5 ran the same kind of work by hand, with the same
results directly and through the proxy, and without a pin: start-up, the four values of `preferQueryMode`, server-side
prepared statements, batches, `setFetchSize`, savepoints, `CopyManager`, `setQueryTimeout`, isolation levels,
`setSchema`, metadata, `ALTER TABLE` under prepared statements, and twenty clients over two server connections.
"""

DRIVERS = {
    "test_psycopg.py": ("psycopg", ["psycopg"]),
    "test_psycopg_async.py": ("psycopg on asyncio", ["psycopg"]),
    "test_asyncpg.py": ("asyncpg", ["asyncpg"]),
    "test_sqlalchemy.py": ("SQLAlchemy", ["sqlalchemy", "psycopg", "asyncpg"]),
    "test_django.py": ("Django", ["django", "psycopg"]),
    "test_psycopg2.py": ("psycopg2", ["psycopg2-binary"]),
    "test_pg8000.py": ("pg8000", ["pg8000"]),
    "test_node_postgres.py": ("node-postgres", []),
}
"""Test files, in the page's order: what runs there, and the Python packages whose versions matter."""


def _python_versions(packages: list[str]) -> Iterator[str]:
    for package in packages:
        # pyproject.toml bounds each of them to one series, so patch releases do not change the page.
        major, minor = version(package).split(".")[:2]
        yield f"{package} {major}.{minor}"


def _node_versions() -> Iterator[str]:
    lock = json.loads((FOLDER / "node/package-lock.json").read_text())
    for package in lock["packages"][""]["dependencies"]:
        yield f"{package} {lock['packages'][f'node_modules/{package}']['version']}"


def _promises(file: Path) -> Iterator[str]:
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            words = node.name.removeprefix("test_").replace("_", " ")
            yield words[0].upper() + words[1:]


def page() -> str:
    """The whole page, in Markdown."""
    lines = [_INTRODUCTION, "| driver | versions |", "|---|---|"]
    for title, packages in DRIVERS.values():
        versions = _python_versions(packages) if packages else _node_versions()
        lines.append(f"| {title} | {', '.join(versions)} |")
    lines.append("\n## What is tested")
    for file, (title, _) in DRIVERS.items():
        lines.append(f"\n**{title}** (`tests/drivers/{file}`)\n")
        lines += [f"- {promise}" for promise in _promises(FOLDER / file)]
    return "\n".join(lines) + "\n" + _DIFFERENCES


if __name__ == "__main__":
    sys.stdout.write(page())
