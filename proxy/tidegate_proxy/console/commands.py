"""What the console does besides SHOW."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from tidegate_proxy.console.parse import HINT, Command
from tidegate_proxy.errors import ClientProtocolError, ProxyError
from tidegate_proxy.metrics.counts import CONSOLE
from tidegate_proxy.settings.errors import ConfigurationError, nearest
from tidegate_proxy.shared_memory import SHUTDOWNS

if TYPE_CHECKING:
    from tidegate_proxy.proxy import Proxy

logger = logging.getLogger(__name__)


def _syntax_error(command: Command, wanted: str) -> ClientProtocolError:
    return ClientProtocolError(f'syntax error in "{command}"', sqlstate="42601", hint=f"It is {wanted}. {HINT}")


def _database(proxy: Proxy, command: Command, *, required: bool = False) -> str | None:
    """The database that the command names, or None for all. Raises: ClientProtocolError for an unknown one."""
    if len(command.arguments) > 1 or command.assigns:
        raise _syntax_error(command, f"{command.verb} {'db' if required else '[db]'}")
    if not command.arguments:
        if required:
            raise ClientProtocolError(
                "a database is required",
                sqlstate="42601",
                hint=f"Name it: {command.verb} db. SHOW DATABASES lists all.",
            )
        return None
    name = command.arguments[0]
    if name == CONSOLE and CONSOLE not in proxy.settings.databases:
        raise ClientProtocolError(f"{command.verb} is not possible for the admin console itself", sqlstate="0A000")
    if name == "*" or proxy.settings.database(name) is None:
        known = [key for key in proxy.settings.databases if key != "*"]
        raise ClientProtocolError(
            f"no such database: {name}", sqlstate="3D000", hint=f"{nearest(name, known).capitalize()}."
        )
    return name


async def pause(proxy: Proxy, command: Command) -> None:
    """PAUSE [db]."""
    database = _database(proxy, command)
    if proxy.control.all_paused or (database is not None and proxy.control.is_paused(database)):
        raise ProxyError("already paused", sqlstate="55000", hint="RESUME ends it.")
    proxy.control.pause(database)
    await proxy.control.until_closed(database)


async def resume(proxy: Proxy, command: Command) -> None:
    """RESUME [db]."""
    database = _database(proxy, command)
    if not proxy.control.resume(database):
        what = "the proxy" if database is None else f"database {database}"
        hint = "All databases are paused: RESUME without a name ends it." if proxy.control.all_paused else None
        raise ProxyError(f"{what} is not paused", sqlstate="55000", hint=hint)


async def reconnect(proxy: Proxy, command: Command) -> None:
    """RECONNECT [db]."""
    for pool in proxy.control.pools(_database(proxy, command)):
        pool.renew()


async def wait_close(proxy: Proxy, command: Command) -> None:
    """WAIT_CLOSE [db]."""
    await proxy.control.until_renewed(_database(proxy, command))


async def disable(proxy: Proxy, command: Command) -> None:
    """DISABLE db."""
    proxy.control.disable(_database(proxy, command, required=True) or "", disabled=True)


async def enable(proxy: Proxy, command: Command) -> None:
    """ENABLE db."""
    proxy.control.disable(_database(proxy, command, required=True) or "", disabled=False)


async def kill(proxy: Proxy, command: Command) -> None:
    """KILL [db]."""
    proxy.control.kill(_database(proxy, command))


async def kill_client(proxy: Proxy, command: Command) -> None:
    """KILL_CLIENT id."""
    if len(command.arguments) != 1 or not command.arguments[0].isdecimal():
        raise _syntax_error(command, "KILL_CLIENT id, with the id that SHOW CLIENTS tells")
    number = int(command.arguments[0])
    client = next((client for client in proxy.clients if client.pid == number), None)
    if client is None:
        raise ProxyError(f"client {number} not found", sqlstate="42704", hint="SHOW CLIENTS tells who is there.")
    client.end()


async def reload(proxy: Proxy, command: Command) -> None:
    """RELOAD."""
    if command.arguments:
        raise _syntax_error(command, "RELOAD")
    try:
        logger.info("%s", await proxy.reload())
    except ConfigurationError as error:
        logger.warning("the configuration is not reloaded, the one before stays in use: %s", error)
        raise ProxyError(
            f"RELOAD failed: {error}", sqlstate="F0000", hint="The configuration from before stays in use."
        ) from None


async def set_(proxy: Proxy, command: Command) -> None:
    """SET key = value."""
    if not command.assigns or len(command.arguments) != 2:
        raise _syntax_error(command, "SET key = value, with quotes around a value that is no single word")
    name, value = command.arguments[0].lower(), command.arguments[1]
    try:
        await proxy.change(name, value)
    except ConfigurationError as error:
        raise ProxyError(f"SET failed: {error}", sqlstate="22023", hint="SHOW CONFIG lists all settings.") from None
    proxy.control.changed[name] = value


async def suspend(proxy: Proxy, command: Command) -> None:
    """SUSPEND, which only makes sense for a restart in place."""
    raise ProxyError(
        "SUSPEND is not supported", sqlstate="0A000", hint="PAUSE waits for transactions to end and holds all clients."
    )


async def shutdown(proxy: Proxy, command: Command) -> None:
    """SHUTDOWN [WAIT_FOR_SERVERS | WAIT_FOR_CLIENTS]."""
    how = " ".join(command.arguments).upper()
    if how not in SHUTDOWNS:
        raise _syntax_error(command, "SHUTDOWN, SHUTDOWN WAIT_FOR_SERVERS or SHUTDOWN WAIT_FOR_CLIENTS")
    await proxy.siblings.shut_down(how)


COMMANDS: dict[str, Callable[[Proxy, Command], Awaitable[None]]] = {
    "PAUSE": pause,
    "RESUME": resume,
    "RECONNECT": reconnect,
    "WAIT_CLOSE": wait_close,
    "DISABLE": disable,
    "ENABLE": enable,
    "KILL": kill,
    "KILL_CLIENT": kill_client,
    "RELOAD": reload,
    "SET": set_,
    "SUSPEND": suspend,
    "SHUTDOWN": shutdown,
}


async def run(proxy: Proxy, user: str, command: Command, *, may_change: bool) -> None:
    """Run a command that is no SHOW, in all workers. Raises: ProxyError, and then nothing has changed, but for workers
    that it does not name."""
    action = COMMANDS.get(command.verb)
    if action is None:
        raise ClientProtocolError(
            f'invalid command "{command}"', sqlstate="42601", hint=f"{_advice(command.verb)} {HINT}".strip()
        )
    if not may_change:
        raise ProxyError(
            f"permission denied for {command.verb}",
            sqlstate="42501",
            hint='Users in "stats_users" may SHOW only; name the user in "admin_users".',
        )
    logger.info("console: %s by user %s", command, user)
    await proxy.siblings.everywhere(command, partial(action, proxy, command))


def _advice(verb: str) -> str:
    advice = nearest(verb, ["SHOW", *COMMANDS])
    return f"{advice[0].upper()}{advice[1:]}" if advice.startswith("did") else ""
