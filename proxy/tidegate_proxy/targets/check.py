"""Whether the servers can be reached at all, before clients are taken."""

from __future__ import annotations

from tidegate_proxy.errors import TargetUnavailableError
from tidegate_proxy.net.connector import check_reachable
from tidegate_proxy.net.resolve import Resolver
from tidegate_proxy.settings import ConfigurationError, DatabaseSettings, Settings
from tidegate_proxy.targets.registry import endpoints


async def check_targets(settings: Settings, resolver: Resolver) -> None:
    """Raises: ConfigurationError when none of the servers of a database accepts connections."""
    for name, database in settings.databases.items():
        try:
            await _check(database, resolver, settings)
        except TargetUnavailableError as error:
            raise ConfigurationError(
                f"databases.{name}.host: {error.message}; "
                "start the server, correct host and port, or set check_targets = false"
            ) from None


async def _check(database: DatabaseSettings, resolver: Resolver, settings: Settings) -> None:
    # One that is away is what the others are there for.
    failed: TargetUnavailableError | None = None
    for endpoint in endpoints(database):
        try:
            await check_reachable(endpoint, resolver, settings.server_connect_timeout)
        except TargetUnavailableError as error:
            failed = failed or error
        else:
            return
    if failed is not None:
        raise failed
