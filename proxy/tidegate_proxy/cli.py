"""The command `tidegate-proxy`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import click

from tidegate_proxy import __version__
from tidegate_proxy.certificates.keeper import CertificateKeeper
from tidegate_proxy.certificates.sources import source_of
from tidegate_proxy.credentials.aws import Aws
from tidegate_proxy.log import setup_logging
from tidegate_proxy.open_files import fit_to_open_files, hard_limit_of_open_files, raise_open_files
from tidegate_proxy.pgbouncer_command import import_pgbouncer
from tidegate_proxy.settings import ConfigurationError, Settings, load_settings
from tidegate_proxy.settings.errors import dotted, one_line
from tidegate_proxy.shared_configuration import SharedConfiguration
from tidegate_proxy.sizing import size
from tidegate_proxy.tls import server_side_context
from tidegate_proxy.workers import Team, Workers, begin_worker, worker_settings

DATABASES_SHOWN = 10

logger = logging.getLogger(__name__)


class _ConfigurationFailure(click.ClickException):
    """Shown as one line on standard error."""

    exit_code = 2


file_argument = click.argument("file", required=False, type=click.Path(path_type=Path))


def _need_core() -> str:
    """Which core there is, "compiled" or "interpreted". Raises: _ConfigurationFailure for one that is not there."""
    try:
        from tidegate_proxy.core import COMPILED
    except ImportError as error:
        raise _ConfigurationFailure(one_line(str(error))) from None
    return "compiled" if COMPILED else "interpreted"


def _show_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(f"tidegate-proxy {__version__} ({_need_core()} core)")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def main() -> None:
    """A transaction-mode PostgreSQL proxy: many short-lived clients share few server connections.

    The configuration is one TOML FILE, or environment variables such as TIDEGATE_LISTEN_PORT and
    TIDEGATE_DATABASES__APP__HOST, or both: then the environment wins. docs/configuration.md lists all
    settings. PgBouncer's own pgbouncer.ini will do as FILE, too: see docs/pgbouncer.md.

    Exit status: 0 after a clean end, 2 for a configuration that can't be used.
    """


@main.command()
@file_argument
def serve(file: Path | None) -> None:
    """Run the proxy until SIGTERM, which lets transactions finish first. SIGHUP makes it read its configuration again.

    Needs as many open files as clients: the soft limit is raised to the hard one. Where even that is too
    low, a configured max_client_conn is an error, and its default is lowered with a warning.
    """
    try:
        settings, warnings = _load(file)
        raise_open_files()
        setup_logging(settings)
        for warning in warnings:
            logger.warning(warning)
        try:
            if settings.workers > 1:
                _need_core()
                sys.exit(Workers(settings, file).run())
            _run(settings, lambda: _load(file)[0])
        except ConfigurationError as error:
            raise ConfigurationError(f"{file}: {error}" if file is not None else str(error)) from None
    except ConfigurationError as error:
        raise _ConfigurationFailure(str(error)) from None


@main.command(hidden=True)
@click.argument("description")
@file_argument
def worker(description: str, file: Path | None) -> None:
    """One of several processes that `serve` starts."""
    team = Team.parse(description)

    begin_worker(team.supervisor)
    try:
        # Not the file, where something else may stand by now: all have the same.
        _, configuration = SharedConfiguration(team.configuration).read()
        settings = worker_settings(configuration, team)
        setup_logging(settings)
        _run(settings, lambda: _load(file)[0], team)
    except ConfigurationError as error:
        raise _ConfigurationFailure(str(error)) from None


@main.command()
@file_argument
def check(file: Path | None) -> None:
    """Validate the configuration as `serve` does, and say what it means.

    Opens no connection: whether the servers can be reached is found out by `serve`.
    """
    try:
        settings, warnings = _load(file)
        concern = CertificateKeeper(settings, Aws(settings.aws_region)).concern
    except ConfigurationError as error:
        raise _ConfigurationFailure(str(error)) from None
    click.echo("\n".join(describe(settings)))
    for line in filter(None, (*warnings, concern and concern[1])):
        click.echo(f"Warning: {line}", err=True)


main.add_command(import_pgbouncer)
main.add_command(size)


@main.command()
@file_argument
@click.option("--host", help="Where the proxy is.  [default: listen_host of the configuration]")
@click.option("--port", type=click.IntRange(1, 65_535), help="Its port.  [default: listen_port of the configuration]")
@click.option("--user", help="Who logs in.  [default: the first of admin_users and stats_users with a password]")
@click.option(
    "--tls",
    type=click.Choice(["disable", "require", "verify-ca", "verify-full"]),
    help="TLS to the proxy.  [default: require if the proxy has a certificate, else disable]",
)
@click.option(
    "--interval", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Seconds between two looks."
)
@click.option("--once", "only_once", is_flag=True, help="Show it once and end.")
def top(
    file: Path | None,
    host: str | None,
    port: int | None,
    user: str | None,
    tls: Literal["disable", "require", "verify-ca", "verify-full"] | None,
    interval: float,
    only_once: bool,
) -> None:
    """Show what a running proxy does: pools, who waits, who is pinned, latencies. Ctrl-C ends it.

    Reads the proxy's admin console. Address, user and password are taken from the configuration of the proxy, where
    FILE or the environment gives it; the options win, and the password may be in PGPASSWORD.
    """
    _need_core()
    from tidegate_proxy import top_command

    try:
        configured = (
            load_settings(file, os.environ) if file is not None or top_command.is_configured(os.environ) else None
        )
        sys.exit(top_command.run(configured, host, port, user, tls, None if only_once else interval, os.environ))
    except ConfigurationError as error:
        raise _ConfigurationFailure(str(error)) from None


def _load(file: Path | None) -> tuple[Settings, list[str]]:
    warnings: list[str] = []
    settings, warning = fit_to_open_files(load_settings(file, os.environ, warnings), hard_limit_of_open_files())
    warnings += filter(None, [warning])
    if settings.fleet and settings.scram_mock_secret is None:
        warnings.append(
            "scram_mock_secret is not given: clients of several proxies behind one address can find out which users "
            "there are; give all of them the same text"
        )
    for name, database in settings.databases.items():
        try:
            server_side_context(database)
        except ConfigurationError as error:
            raise ConfigurationError(f"{dotted(('databases', name))}: {error}") from None
    return settings, warnings


def _run(settings: Settings, read_again: Callable[[], Settings], team: Team | None = None) -> None:
    # Here and not above, so that --help and check need none of it.
    _need_core()
    import uvloop

    from tidegate_proxy.proxy import Proxy

    async def run() -> None:
        await Proxy(settings, read_again, team).serve()
        # All is done: one more signal must not make a failure of it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})

    # What there is by now stays: the garbage collector need not go through all of it each time that clients come.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def describe(settings: Settings) -> list[str]:
    """What the proxy would do with these settings, in a few lines without any secret."""
    tls = {
        "disable": "no TLS",
        "allow": "TLS if they ask for it" if source_of(settings, Aws(settings.aws_region)) else "no TLS",
        "require": "TLS required",
    }[settings.client_tls]
    port = settings.listen_port or "any free port"
    places = [f"{settings.listen_host} port {port}"] if settings.listen_host else []
    where = " and ".join(places + ([str(settings.unix_socket_dir)] if settings.unix_socket_dir else []))
    clients = f"at most {settings.max_client_conn} at a time"
    lines = [
        "The configuration is valid.",
        f"Clients: {where}, {tls}, {clients}",
    ]
    for name, database in list(settings.databases.items())[:DATABASES_SHOWN]:
        lines.append(
            f"Database {'any other' if name == '*' else name}: {database.host} port {database.port}, "
            f"database {database.dbname or 'of the same name'}, as {database.user or 'the client'}, "
            f"TLS {database.tls}, at most {database.pool_size or settings.default_pool_size} connections per user"
        )
    if (more := len(settings.databases) - DATABASES_SHOWN) > 0:
        lines.append(f"... and {more} more databases")
    count = len(settings.users)
    iam = settings.iam
    lines.append(f"Users: {count}" if count or iam else "Users: none, so nobody can log in")
    if iam is not None:
        rules = f"region {iam.region}, rules: {len(iam.rules)}, " if iam.rules else ""
        lines.append(f"IAM: {rules}database users who log in by a token: {len(iam.users)}")
    return [one_line(line) for line in lines]
