"""The question to a server, what is left in the session, and what follows from its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidegate_proxy.core.suspect import CURSOR, LISTENING, LOCK, PREPARED, TEMPORARY

_QUESTIONS = {
    LISTENING: "EXISTS (SELECT FROM pg_catalog.pg_listening_channels())",
    PREPARED: "EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql)",
    CURSOR: "EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)",
    LOCK: (
        "EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory'"
        " AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())"
    ),
    TEMPORARY: (
        "EXISTS (SELECT FROM pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=)"
        " 'pg_catalog.pg_namespace'::pg_catalog.regclass"
        " AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()"
        " AND refobjid OPERATOR(pg_catalog.<>) 0)"
    ),
}
"""SQL that is true while state of a kind is left. Each is asked after the transaction, so what has ended with it, like
an advisory lock of the transaction's own, is gone."""

# The answer comes in the client's encoding, whichever that is: in hexadecimal digits it is the same in all of them.
_PLAIN = "pg_catalog.encode(pg_catalog.convert_to({}, 'UTF8'), 'hex')"


def _text(value: bytes | None) -> str | None:
    return None if value is None else bytes.fromhex(value.decode()).decode()


# Not in pg_settings, though they may be set.
_NEVER_LISTED = frozenset({"role", "session_authorization"})


@dataclass(frozen=True)
class Check:
    """One question: about which kinds of state, about which parameters, and whether about all changed ones.

    `reset`: those parameters that were reset rather than set; `in_advance`: it was sent together with the statement
    that it asks about; `unnamed`: parameters that no statement has named, for functions may set them.
    """

    kinds: tuple[str, ...]
    names: tuple[str, ...]
    reset: frozenset[str] = frozenset()
    all_changed: bool = False
    in_advance: bool = False
    unnamed: frozenset[str] = frozenset()

    def sql(self) -> str:
        """One SELECT with a column for each kind and each name; then one row for each other parameter that differs
        from the session's beginning, if those are asked for too."""
        # Imported here: the quoting belongs to the session's own SQL, which is none of the per-message path's business.
        from tidegate_proxy.pool.session import literal

        columns = [_QUESTIONS[kind] for kind in self.kinds]
        columns += [_PLAIN.format(f"pg_catalog.current_setting({literal(name)}, true)") for name in self.names]
        sql = "SELECT " + ", ".join(columns)
        if self.all_changed:
            sql += ";SELECT pg_catalog.lower(name), " + _PLAIN.format("setting")
            sql += " FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session'"
        return sql

    def tells_source(self, name: str) -> bool:
        """Whether the answer has a value for this parameter only if it was set in the session."""
        return self.all_changed and "." not in name and name not in _NEVER_LISTED

    def read(self, rows: Sequence[Sequence[bytes | None]]) -> tuple[set[str], dict[str, str | None]]:
        """The kinds of which something is left, and the parameters' values (None: no such parameter)."""
        first, *others = rows or [[]]
        left = {kind for kind, value in zip(self.kinds, first, strict=False) if value == b"t"}
        values: dict[str, str | None] = {}
        for name, value in zip(self.names, first[len(self.kinds) :], strict=False):
            values[name] = _text(value)
            if self.tells_source(name):
                values[name] = None  # unless it is among the changed ones
        for changed, setting in others:
            if changed is not None:
                values[changed.decode()] = _text(setting)
        return left, values
