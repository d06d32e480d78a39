"""Names to addresses, asked of DNS each time.

Neither Python nor the C library keeps answers, but the C library's getaddrinfo occupies a thread for as long as DNS
does not answer (10 s and more), cannot be given up, and there are four such threads in libuv: a failover with a DNS
that stutters is when they would be missed. c-ares (aiodns) asks from the event loop with a time limit of its own, and
reads /etc/hosts, /etc/resolv.conf and /etc/nsswitch.conf as the C library does. It keeps answers for as long as their
TTL says, which is too long for a name that has just failed: so each look-up has a resolver of its own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

import aiodns

_TRY, _TRIES = 1.0, 3
"""Seconds that a DNS server has for an answer, and how often all of them are asked."""


class NameResolutionError(OSError):
    """A name has no address, or DNS could not be asked; `str()` says which."""


class Resolver:
    """Resolves names.

    Parameters: `servers`, DNS servers as `address` or `address:port`; none for those of /etc/resolv.conf.
    """

    def __init__(self, servers: Sequence[str] = ()) -> None:
        self._servers = list(servers) or None
        self._lookups: dict[str, asyncio.Task[list[str]]] = {}

    async def addresses(self, host: str) -> list[str]:
        """The IP addresses of a host, best first; at least one.

        Whoever asks while the same question is on its way gets the same answer: a burst of connections costs one
        look-up. Raises: NameResolutionError.
        """
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = self._lookups[host] = asyncio.get_running_loop().create_task(self._look_up(host))
            lookup.add_done_callback(lambda done: self._answered(host, done))
        return await asyncio.shield(lookup)

    def _answered(self, host: str, lookup: asyncio.Task[list[str]]) -> None:
        del self._lookups[host]
        if not lookup.cancelled():
            # Everybody who asked may have given up.
            lookup.exception()

    async def _look_up(self, host: str) -> list[str]:
        try:
            async with aiodns.DNSResolver(self._servers, timeout=_TRY, tries=_TRIES) as resolver:
                answer = await resolver.getaddrinfo(host, type=socket.SOCK_STREAM)
        except (aiodns.error.DNSError, ValueError, UnicodeError) as error:
            reason = error.args[1] if len(error.args) > 1 else str(error)
            raise NameResolutionError(f'the name "{host}" does not resolve: {reason}') from error
        found = [
            str(node.addr[0], "ascii") if isinstance(node.addr[0], bytes) else node.addr[0] for node in answer.nodes
        ]
        if not found:
            raise NameResolutionError(f'the name "{host}" has no address')
        return list(dict.fromkeys(found))

    async def close(self) -> None:
        """Give up whatever is being looked up."""
        lookups = list(self._lookups.values())
        for lookup in lookups:
            lookup.cancel()
        if lookups:
            await asyncio.wait(lookups)
