"""What `tidegate-proxy top` does with its options."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
from collections.abc import Coroutine, Mapping
from typing import Literal

from pydantic import ValidationError
from rich.console import Console as Terminal

from tidegate_proxy.errors import ProxyError
from tidegate_proxy.metrics.counts import CONSOLE
from tidegate_proxy.settings import ConfigurationError, DatabaseSettings, Settings
from tidegate_proxy.settings.environment import PREFIX
from tidegate_proxy.top import ConsoleClient, once, watch

TLS = Literal["disable", "require", "verify-ca", "verify-full"]


def is_configured(environment: Mapping[str, str]) -> bool:
    """Whether environment variables configure a proxy."""
    return any(name.startswith(f"{PREFIX}DATABASES") for name in environment)


def run(
    settings: Settings | None,
    host: str | None,
    port: int | None,
    user: str | None,
    tls: TLS | None,
    interval: float | None,
    environment: Mapping[str, str],
) -> int:
    """Show the proxy's doings until Ctrl-C, or once where there is no interval.

    Returns: the exit status: 0, or 1 when the console cannot be read. Raises: ConfigurationError.
    """
    address = _address(settings, host, port, tls)
    name, password = _login(settings, user, environment)
    client = ConsoleClient(address, name, password)
    where = f"{address.host} port {address.port}"
    terminal = Terminal()
    try:
        if interval is None:
            asyncio.run(once(client, where, terminal))
        else:
            asyncio.run(_until_told(watch(client, where, terminal, interval)))
    except ProxyError as error:
        Terminal(stderr=True).print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass
    return 0


async def _until_told(watching: Coroutine[None, None, None]) -> None:
    """Until SIGINT or SIGTERM, after which the terminal is as it was before. Raises: CancelledError."""
    task = asyncio.ensure_future(watching)
    for signum in (signal.SIGINT, signal.SIGTERM):
        # Python leaves SIGINT alone where it is ignored at the start, as it is in whatever a script runs with "&".
        asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
    await task


def _address(settings: Settings | None, host: str | None, port: int | None, tls: TLS | None) -> DatabaseSettings:
    host = host or (_reachable(settings.listen_host) if settings is not None else "127.0.0.1")
    port = port or (settings.listen_port if settings is not None else 6432)
    if port == 0:
        raise ConfigurationError("listen_port is 0, any free port: say which one it is with --port")
    if tls is None:
        tls = "require" if settings is not None and settings.client_tls_cert is not None else "disable"
    try:
        return DatabaseSettings(host=host, port=port, dbname=CONSOLE, tls=tls)
    except ValidationError as error:
        raise ConfigurationError(f"--host: {error.errors()[0]['msg']}") from None


def _reachable(host: str) -> str:
    """What a proxy that listens on all addresses can be reached at from here."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


def _login(settings: Settings | None, user: str | None, environment: Mapping[str, str]) -> tuple[str, str | None]:
    password = environment.get("PGPASSWORD")
    if settings is None:
        if user is None:
            raise ConfigurationError("name the proxy's configuration FILE, or a user of its console with --user")
        return user, password
    for name in (user,) if user is not None else (*settings.admin_users, *settings.stats_users):
        known = settings.users.get(name)
        if password is not None:
            return name, password
        if known is not None and known.password is not None:
            return name, known.password.get_secret_value()
    if user is not None:
        return user, None
    raise ConfigurationError(
        "nobody may use the console with a password that the configuration knows: name users in admin_users or "
        "stats_users, or give --user and PGPASSWORD"
    )
