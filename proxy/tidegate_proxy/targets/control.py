"""A control connection: a session of the proxy's own on one target, on which it asks how the target is."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass, replace

from tidegate_proxy.errors import ServerProtocolError, TargetUnavailableError, TargetUnreachableError
from tidegate_proxy.net.connector import Connector
from tidegate_proxy.net.stream import Stream
from tidegate_proxy.protocol import decode, encode, wire
from tidegate_proxy.protocol.rows import parse_data_row
from tidegate_proxy.targets.aurora import TOPOLOGY
from tidegate_proxy.targets.endpoint import Place

_ANSWER_LIMIT = 1 << 20

# default_transaction_read_only counts where the server's own configuration sets it, as RDS does for a server that is to
# be left; a role or a database may have it for reasons of its own. Aurora has no timelines, and one writer.
CHECK = """
SELECT pg_catalog.pg_is_in_recovery()
    OR pg_catalog.current_setting('default_transaction_read_only') = 'on' AND (
        SELECT source NOT IN ('database', 'user', 'database user', 'client', 'session')
        FROM pg_catalog.pg_settings WHERE name = 'default_transaction_read_only'),
    pg_catalog.pg_postmaster_start_time(),
    pg_catalog.to_regprocedure('pg_catalog.aurora_replica_status()') IS NOT NULL,
    CASE WHEN NOT pg_catalog.pg_is_in_recovery()
        AND pg_catalog.to_regprocedure('pg_catalog.aurora_replica_status()') IS NULL
        THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) END
"""


def member_name() -> str:
    """The `application_name` of this proxy's control connections, which tells the members of a fleet apart."""
    # PostgreSQL keeps 63 bytes of it.
    return f"tidegate {socket.gethostname()[:48]} {os.getpid()}"


@dataclass(frozen=True)
class Facts:
    """What a target says of itself.

    - `read_only`: it takes no writes.
    - `life`: differs between servers, and between two starts of one.
    - `timeline`: of a writer, in hexadecimal; a promotion begins a new one. Empty where there is none to be known.
    - `instances`: of the Aurora cluster that it belongs to; None where it is not Aurora.
    """

    read_only: bool
    life: bytes
    timeline: str
    instances: tuple[str, ...] | None = None


def read_facts(rows: list[list[bytes | None]]) -> tuple[Facts, bool]:
    """What the answer to CHECK says. Returns: facts without instances, and whether it is Aurora. Raises: ValueError."""
    (read_only, life, aurora, segment), *_ = rows
    return Facts(read_only == b"t", life or b"", (segment or b"")[:8].decode()), aurora == b"t"


class ControlConnection:
    """Parameters: `stream`, logged in; `timeout`, seconds for an answer."""

    def __init__(self, stream: Stream, timeout: float) -> None:
        self._stream = stream
        self._timeout = timeout

    @classmethod
    async def open(cls, connector: Connector, place: Place, within: float) -> ControlConnection:
        """Log in; `within`, seconds for that and for each answer later. Raises: see `Connector.log_in`."""
        parameters = {"application_name": member_name()}
        stream, _ = await connector.log_in(place, within, parameters)
        return cls(stream, within)

    @property
    def address(self) -> str | None:
        """The IP address at the other end, None when it is gone."""
        peer = self._stream.transport.get_extra_info("peername")
        return str(peer[0]) if peer else None

    async def ended(self) -> None:
        """Wait until it is gone; not during a `check`."""
        await self._stream.ended()

    async def check(self, *, topology: bool) -> Facts:
        """Ask how the target is.

        Parameters: `topology`, whether to ask for the instances too, where it is Aurora.
        Raises: ProxyError when it does not answer in time, or not as a PostgreSQL server would.
        """
        try:
            async with asyncio.timeout(self._timeout):
                facts, aurora = read_facts(await self._query(CHECK))
                rows = await self._query(TOPOLOGY) if topology and aurora else None
        except TimeoutError as error:
            raise TargetUnreachableError(f"no answer on the control connection within {self._timeout:g} s") from error
        except OSError as error:
            raise TargetUnavailableError("the control connection was closed") from error
        except ValueError as error:
            raise ServerProtocolError("the answer on the control connection is not what was asked for") from error
        if rows is not None:
            facts = replace(facts, instances=tuple((name or b"").decode() for (name,) in rows))
        return facts

    async def _query(self, sql: str) -> list[list[bytes | None]]:
        if self._stream.transport.is_closing():
            raise ConnectionResetError
        self._stream.write(encode.query(sql))
        rows: list[list[bytes | None]] = []
        error: bytes | None = None
        while True:
            kind, body = await self._stream.read_message(_ANSWER_LIMIT)
            if kind == wire.DATA_ROW:
                rows.append(parse_data_row(body))
            elif kind == wire.ERROR_RESPONSE:
                error = body
                if decode.parse_error_fields(body).get("V", "ERROR") != "ERROR":
                    break
            elif kind == wire.READY_FOR_QUERY:
                break
        if error is not None:
            raise decode.error_from_fields(decode.parse_error_fields(error))
        return rows

    def close(self) -> None:
        """Say goodbye."""
        transport = self._stream.transport
        if not transport.is_closing():
            self._stream.write(encode.terminate())
            transport.close()
