"""A second name for a database's readers: a table that has nearly everything from another one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


def with_readers(tables: Any, known: Collection[str], own: Collection[str]) -> Any:
    """The tables of `databases`, those with `readers_of` filled in from the database that they name.

    Parameters: `tables`, not validated yet: what is no table is left to the validation, and so are keys that are not
    `known`; `own`, the keys that need not be the same.
    Raises: ValueError.
    """
    if not isinstance(tables, Mapping):
        return tables
    return {name: _filled_in(name, table, tables, known, own) for name, table in tables.items()}


def _filled_in(name: Any, table: Any, tables: Mapping[Any, Any], known: Collection[str], own: Collection[str]) -> Any:
    if not isinstance(table, Mapping) or not isinstance(table.get("readers_of"), str):
        return table
    other = table["readers_of"]
    base = tables.get(other)
    if not isinstance(base, Mapping) or "readers_of" in base or other == "*":
        raise ValueError(f'"{name}" has readers_of = "{other}", which is not the name of a database with a host')
    surplus = [key for key in table if key in known and key not in {*own, "readers_of"}]
    if surplus:
        raise ValueError(
            f'"{name}" has readers_of and also {surplus[0]}: remove {surplus[0]}, which "{other}" decides; '
            "only sizes, times and reader_fallback may differ"
        )
    return {"dbname": other, **base, **table, "role": "reader"}
