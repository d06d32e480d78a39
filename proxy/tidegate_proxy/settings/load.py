"""Read the file and the environment, merge them, and turn whatever is wrong into one line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tidegate_proxy.settings.certificates import RDS
from tidegate_proxy.settings.environment import read_environment, variable_of
from tidegate_proxy.settings.errors import (
    ConfigurationError,
    Location,
    dotted,
    explain,
    field_at,
    plain_type,
)
from tidegate_proxy.settings.models import Settings
from tidegate_proxy.settings.pgbouncer import translate
from tidegate_proxy.settings.sizes import ALIASES

FILE_LIMIT = 4_000_000
"""Bytes. A configuration of ten thousand users has about 1 MB."""


def load_settings(file: Path | None, environment: Mapping[str, str], warnings: list[str] | None = None) -> Settings:
    """The settings from a TOML file, from environment variables, or from both; the environment wins, key by
    key.

    Parameters: `file`, None for the environment alone, or PgBouncer's own where its name ends in ".ini"; `warnings`,
    gets what of that has no effect here; `environment`, such as `os.environ`.
    Returns: validated settings. Paths in the file are relative to the file's folder, those in the
    environment to the working directory.
    Raises: ConfigurationError with one line that names the file or the variable, the key, and what it must
    be.
    """
    written: dict[Location, Location] = {}
    data: dict[str, Any] = {}
    if file is not None and file.suffix == ".ini":
        data, found = translate(file)
        if warnings is not None:
            warnings += found
    elif file is not None:
        try:
            data = _anchored(_by_one_name(_read(file), written), file.parent)
        except ValueError as error:
            raise ConfigurationError(f"{file}: {error}") from None
    in_file = _locations(data)
    from_environment = _variables_by_one_name(read_environment(environment))
    for location, (_, value) in from_environment.items():
        _apply(data, location, value)
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        # An unknown key comes first: it is often the misspelled one of which another error says that it is
        # missing.
        errors = [item for item in error.errors(include_url=False) if item["type"] != "default_factory_not_called"]
        first = min(errors, key=lambda item: item["type"] != "extra_forbidden")
        location, sentence = explain(first)
        subject = _subject(location, file, in_file, written, from_environment)
        more = len(errors) - 1
        rest = f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""
        # Neither the cause nor the context: their text may hold values that nobody should see.
        raise ConfigurationError(f"{subject}: {sentence}{rest}") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            content = stream.read(FILE_LIMIT + 1)
        if len(content) > FILE_LIMIT:
            raise ConfigurationError(f"{file}: is larger than {FILE_LIMIT} bytes: not a configuration")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{file}: is not UTF-8 text (line {line})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file}: is not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigurationError(f"{file}: is nested too deeply") from None
    except ValueError:
        raise ConfigurationError(f"{file}: is not valid TOML: a number is too long") from None


def _by_one_name(table: dict[str, Any], written: dict[Location, Location], at: Location = ()) -> dict[str, Any]:
    """The same table with every setting under its first name; `written` gets those that stood under another."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        location = (*at, key)
        name = ALIASES.get(key, key) if field_at(location) is not None else key
        if name != key:
            written[*at, name] = location
            if table.get(name, value) != value:
                raise ValueError(f"{dotted(location)} and {dotted((*at, name))} are the same: keep one of them")
        result[name] = _by_one_name(value, written, location) if isinstance(value, dict) else value
    return result


def _variables_by_one_name(found: dict[Location, tuple[str, Any]]) -> dict[Location, tuple[str, Any]]:
    result: dict[Location, tuple[str, Any]] = {}
    for location, (variable, value) in found.items():
        if isinstance(value, dict):
            try:
                value = _by_one_name(value, {}, location)
            except ValueError as error:
                raise ConfigurationError(f"{variable}: {error}") from None
        elif field_at(location) is not None:
            location = (*location[:-1], ALIASES.get(location[-1], location[-1]))
        other, given = result.get(location, (variable, value))
        if given != value:
            raise ConfigurationError(f"{other} and {variable} are the same: keep one of them")
        result[location] = (variable, value)
    return result


def _anchored(table: dict[str, Any], folder: Path, at: Location = ()) -> dict[str, Any]:
    """The same table with every path that is relative joined to `folder`."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        location = (*at, key)
        field = field_at(location)
        if isinstance(value, dict):
            value = _anchored(value, folder, location)
        elif isinstance(value, str) and field is not None and plain_type(field.annotation) is Path:
            value = str(folder / value) if value and value != RDS else value
        result[key] = value
    return result


def _locations(value: Any, at: Location = ()) -> set[Location]:
    found = {at}
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = {str(index): item for index, item in enumerate(value)}.items()
    else:
        return found
    return found.union(*(_locations(item, (*at, key)) for key, item in inner))


def _apply(data: dict[str, Any], location: Location, value: Any) -> None:
    """Set one key; tables are merged, so that the file's other keys remain."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _apply(data, (*location, key), inner)
        if value:
            return
    table = data
    for key in location[:-1]:
        inner = table.get(key)
        if not isinstance(inner, dict):
            inner = table[key] = {}
        table = inner
    if value != {} or not isinstance(table.get(location[-1]), dict):
        table[location[-1]] = value


def _subject(
    location: Location,
    file: Path | None,
    in_file: set[Location],
    written: Mapping[Location, Location],
    from_environment: Mapping[Location, tuple[str, Any]],
) -> str:
    """Where a person must look: the variable or the file, and the key in it."""
    for length in range(len(location), 0, -1):
        if location[:length] in from_environment:
            variable = from_environment[location[:length]][0]
            return f"{variable}: {dotted(location[length:])}" if length < len(location) else variable
    if file is not None and (location in in_file or location[:-1] in in_file):
        return f"{file}: {dotted(written.get(location, location))}" if location else str(file)
    return variable_of(location) if location else "the environment"
