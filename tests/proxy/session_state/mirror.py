"""Clients of the proxy, each with a mirror: a session directly on PostgreSQL that is told the same and must answer the
same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from tests.support.rawclient import RawClient

from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.decode import parse_error_fields

PARAMETERS = (
    "application_name",
    "bytea_output",
    "client_encoding",
    "DateStyle",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "lock_timeout",
    "role",
    "search_path",
    "standard_conforming_strings",
    "TimeZone",
    "work_mem",
)
CUSTOM = ("app.x", "app.y")

# What a session is. None of these words is one that the proxy looks for. A custom parameter that somebody else has once
# set stays behind as an empty string, as after a ROLLBACK on PostgreSQL.
VISIBLE = (
    "SELECT "
    + ", ".join(f"pg_catalog.current_setting('{name}')" for name in PARAMETERS)
    + ", "
    + ", ".join(f"coalesce(pg_catalog.current_setting('{name}', true), '')" for name in CUSTOM)
    + ", (SELECT array_agg(c ORDER BY c) FROM pg_catalog.pg_listening_channels() AS c)"
    + ", (SELECT array_agg(name ORDER BY name) FROM pg_catalog.pg_prepared_statements WHERE from_sql)"
    + ", (SELECT array_agg(name ORDER BY name) FROM pg_catalog.pg_cursors WHERE is_holdable)"
    + ", (SELECT array_agg(objid ORDER BY objid) FROM pg_catalog.pg_locks"
    + "    WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid())"
    + ", (SELECT array_agg(relname ORDER BY relname) FROM pg_catalog.pg_class"
    + "    WHERE relnamespace = pg_catalog.pg_my_temp_schema() AND relkind IN ('r', 'v'))"
)


_END = encode.sync() + encode.query("")


@dataclass(frozen=True)
class Step:
    """Bytes for the server, and how often that becomes ready for the next query because of them; 0 where that depends
    on what fails: then an empty query, which is always answered, shows the end."""

    text: str
    data: bytes
    readies: int = 1
    # A statement whose Parse has failed may be used again before that is known: which of two errors comes then may
    # differ.
    any_error: bool = False


def simple(sql: str) -> Step:
    """A Query."""
    return Step(sql, encode.query(sql.encode()))


def without_table_ids(row_description: bytes) -> bytes:
    """Two databases may give two ids to the same table."""
    result, pos = row_description[:2], 2
    while pos < len(row_description):
        end = row_description.index(0, pos) + 1
        result += row_description[pos:end] + bytes(4) + row_description[end + 4 : end + 18]
        pos = end + 18
    return result


@dataclass
class Talk:
    """One session and what it was told about its parameters."""

    client: RawClient
    reported: dict[bytes, bytes] = field(default_factory=dict)

    def run(self, step: Step) -> list[object]:
        """The answer, without what may differ between two servers."""
        self.client.send(step.data if step.readies else step.data + _END)
        return self.answer(step.readies, any_error=step.any_error)

    def answer(self, readies: int = 1, *, any_error: bool = False) -> list[object]:
        """Read up to so many ReadyForQuery, 0 for that behind the first empty query; `any_error`: one is as good as
        another."""
        answer: list[object] = []
        to_the_end = readies == 0
        while readies or to_the_end:
            kind, body = self.client.read()
            if to_the_end and kind == "I":
                to_the_end, readies = False, 1
            if kind == "S":
                name, value, _ = body.split(b"\0")
                self.reported[name] = value
            elif kind == "E":
                fields = parse_error_fields(body)
                answer.append((kind,) if any_error else (kind, fields["C"], fields["M"]))
            elif kind == "T":
                answer.append((kind, without_table_ids(body)))
            elif kind != "N":
                answer.append((kind, body))
            readies -= kind == "Z" and not to_the_end
        return answer


class Pair:
    """A client of the proxy and its mirror."""

    def __init__(self, proxied: dict[str, Any], direct: dict[str, Any]) -> None:
        self.proxied = Talk(RawClient(proxied))
        try:
            self.direct = Talk(RawClient(direct))
        except BaseException:
            self.proxied.client.socket.close()
            raise
        for talk in (self.proxied, self.direct):
            talk.reported = dict(talk.client.reported)
        self.history: list[str] = []
        self.status = b"I"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction block is open."""
        return self.status != b"I"

    def run(self, step: Step) -> None:
        """Do the same on both, and see that answers and sessions are the same."""
        self.history.append(step.text)
        expected = self.direct.run(step)
        answer = self.proxied.run(step)
        assert answer == expected, (self.history, answer, expected)
        assert isinstance(expected[-1], tuple)
        self.status = expected[-1][1]
        look = simple(VISIBLE)
        seen, wanted = self.proxied.run(look), self.direct.run(look)
        assert seen == wanted, (self.history, set(map(str, seen)) ^ set(map(str, wanted)))
        told = [
            {name: value for name, value in talk.reported.items() if not name.startswith(b"tidegate.")}
            for talk in (self.proxied, self.direct)
        ]
        assert told[0] == told[1], self.history

    def close(self) -> None:
        """Vanish without a goodbye."""
        self.proxied.client.socket.close()
        self.direct.client.socket.close()
