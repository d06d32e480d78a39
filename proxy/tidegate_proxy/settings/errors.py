"""From what pydantic reports to the one line that a person needs. No line ever contains a configured
value."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from tidegate_proxy.settings.iam import IamSettings
from tidegate_proxy.settings.models import DatabaseSettings, Settings, UserSettings
from tidegate_proxy.settings.sizes import ALIASES

LONGEST_KEY = 80

Location = tuple[str, ...]

TABLES: dict[str, type[BaseModel]] = {"databases": DatabaseSettings, "users": UserSettings}
"""The settings that map names to tables of their own."""

SECTIONS: dict[str, type[BaseModel]] = {"iam": IamSettings}
"""The settings that are one table."""


def one_line(text: str) -> str:
    """`text` with line breaks and other control characters written as escapes.

    A key, a path or a client's user name may hold a line break or a terminal's escape sequence.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class ConfigurationError(Exception):
    """The configuration can't be used. `str()` is one line: where, which key, what is wrong, what would be
    right."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def dotted(location: Iterable[str]) -> str:
    """A key as TOML writes it: `databases."My App".port`."""
    parts = (part if len(part) <= LONGEST_KEY else part[:LONGEST_KEY] + "…" for part in location)
    return ".".join(
        part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part, ensure_ascii=False) for part in parts
    )


def model_at(location: Sequence[str]) -> type[BaseModel] | None:
    """The model whose keys stand at `location`: () is the whole file. None where there are no fixed keys."""
    if not location:
        return Settings
    if location[0] in TABLES:
        return TABLES[location[0]] if len(location) == 2 else None
    if location[0] not in SECTIONS:
        return None
    if len(location) == 1:
        return SECTIONS[location[0]]
    listed = field_at(location[:-1])
    return None if listed is None else table_in_list(listed)


def table_in_list(field: FieldInfo) -> type[BaseModel] | None:
    """The model of each item of a list of tables; None for any other field."""
    kind = plain_type(field.annotation)
    item = plain_type(get_args(kind)[0]) if get_origin(kind) is tuple else None
    return item if isinstance(item, type) and issubclass(item, BaseModel) else None


def field_at(location: Sequence[str]) -> FieldInfo | None:
    """The field that `location` leads to, None if it leads to a table or nowhere."""
    model = model_at(location[:-1])
    return model.model_fields.get(ALIASES.get(location[-1], location[-1])) if model and location else None


def nearest(name: str, known: Iterable[str]) -> str:
    """Advice on an unknown name: the nearest known one, else all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}"


def plain_type(annotation: Any) -> Any:
    """An annotation without Annotated and without None: `Annotated[int, …] | None` is int."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, UnionType):
            annotation = next(part for part in get_args(annotation) if part is not type(None))
        else:
            return annotation


def _constraints(annotation: Any, metadata: Sequence[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in metadata:
        nested = item.metadata if isinstance(item, FieldInfo) else [item]
        for constraint in nested:
            for name in ("gt", "ge", "le"):
                if (bound := getattr(constraint, name, None)) is not None:
                    found[name] = bound
    if get_origin(annotation) is Annotated:
        found |= _constraints(get_args(annotation)[0], annotation.__metadata__)
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            found |= _constraints(part, ())
    return found


def expected(field: FieldInfo) -> str:
    """What a field accepts, in words: "a whole number from 1 to 65535"."""
    kind = plain_type(field.annotation)
    bounds = _constraints(field.annotation, field.metadata)
    if kind is bool:
        return "true or false"
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(json.dumps(value) for value in get_args(kind))
    if kind in (int, float):
        what = "a whole number" if kind is int else "a number of seconds"
        lower = f"above {bounds['gt']}," if "gt" in bounds else f"from {bounds['ge']}"
        return f"{what} {lower} {'up ' if 'gt' in bounds else ''}to {bounds['le']:.0f}"
    if kind is SecretStr or kind is str:
        return "a non-empty string"
    if get_origin(kind) is tuple:
        return "a list of tables" if table_in_list(field) else "a list of names"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "a table"
    return "a table" if get_origin(kind) else "a file's path, as a string"


def _example(location: Location, field: FieldInfo | None) -> str:
    if location[0] == "databases" and len(location) < 3:
        return 'for example databases.app.host = "db.example.com"'
    if location[0] == "users" and len(location) < 3:
        return 'for example users.app.password_file = "app.password"'
    if location[-1] == "host":
        return 'for example "db.example.com"'
    default = None if field is None else field.default
    if isinstance(default, int | float | str) and not isinstance(default, bool):
        return f"for example {json.dumps(default)}"
    return ""


def explain(error: ErrorDetails) -> tuple[Location, str]:
    """One of pydantic's errors as the key it belongs to and a sentence without a subject.

    Returns: for example `(("listen_port",), "must be a whole number from 0 to 65535, for example 6432")`.
    """
    location = tuple(str(part) for part in error["loc"])
    kind = error["type"]
    if location and location[-1] == "[key]":
        return location[:-1], "is not a name: it must not be empty or contain a zero byte"
    if kind == "extra_forbidden":
        model = model_at(location[:-1])
        return location, f"unknown key; {nearest(location[-1], model.model_fields if model else ())}"
    if kind == "value_error":
        return location, str(error["ctx"]["error"])
    if location == ("databases",) and kind in ("missing", "too_short"):
        return location, (
            'no database is configured: name at least one, in FILE as databases.app.host = "db.example.com" '
            "or as TIDEGATE_DATABASES__APP__HOST=db.example.com"
        )
    field = field_at(location)
    what = "a table" if field is None else expected(field)
    example = _example(location, field)
    sentence = f"must be {what}" + (f", {example}" if example else "")
    if kind == "missing":
        return location, f"is missing; it {sentence}"
    return location, sentence
