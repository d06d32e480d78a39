"""Settings from environment variables: `TIDEGATE_LISTEN_PORT`, `TIDEGATE_DATABASES__APP__HOST`, or a table
as JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any, get_origin

from tidegate_proxy.settings.errors import (
    SECTIONS,
    TABLES,
    ConfigurationError,
    Location,
    field_at,
    model_at,
    nearest,
    plain_type,
    table_in_list,
)

PREFIX = "TIDEGATE_"
DELIMITER = "__"

OF_THE_LAYER = frozenset(
    PREFIX + name
    for name in (
        "APPLICATION_NAME",
        "AUTH",
        "CLOSE_ABOVE",
        "CONNECT_TIMEOUT",
        "DBNAME",
        "DEFAULT_TIMEOUT",
        "HOST",
        "IDLE_CHECK",
        "IDLE_SESSION_TIMEOUT",
        "INIT_TIMEOUT",
        "MARGIN",
        "METRICS",
        "PASSWORD",
        "PORT",
        "PROXY_ID",
        "REGION",
        "RETRY_ATTEMPTS",
        "RETRY_BURST",
        "RETRY_RATE",
        "SECRET_ARN",
        "SSLMODE",
        "SSLROOTCERT",
        "STATEMENT_DEADLINE",
        "USER",
    )
)
"""Variables of the Lambda layer, which may be set where the proxy is started; they say nothing to the proxy."""

OF_THE_BUILD = "TIDEGATE_PROXY_CORE"
"""Chooses the compiled or the interpreted core (see `tidegate_proxy.core`), no setting of the proxy."""


def variable_of(location: Location) -> str:
    """The variable that sets the key at `location`."""
    return PREFIX + DELIMITER.join(location).upper()


def read_environment(environment: Mapping[str, str]) -> dict[Location, tuple[str, Any]]:
    """Every setting that the environment gives.

    Parameters: `environment`, such as `os.environ`; names without the prefix TIDEGATE_ are none of our
    business.
    Returns: for each key's location the variable's name and its value: a table for JSON, else the type that
    the field wants, or the text as it is where it can't be converted, which the validation then refuses.
    Tables come before the keys inside them, so that the more precise variable wins when they are applied in
    order.
    Raises: ConfigurationError for an unknown variable or malformed JSON.
    """
    found = {}
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and variable not in OF_THE_LAYER and variable != OF_THE_BUILD:
            location = tuple(variable.removeprefix(PREFIX).lower().split(DELIMITER))
            found[location] = (variable, _value(variable, location, environment[variable]))
    return dict(sorted(found.items(), key=lambda item: len(item[0])))


def _value(variable: str, location: Location, text: str) -> Any:
    field = field_at(location)
    if (location[0] in TABLES and len(location) <= 2 and location[-1]) or (
        location[0] in SECTIONS and len(location) == 1
    ):
        return _table(variable, text)
    if field is None:
        raise ConfigurationError(f"{variable}: unknown variable; {_advice(location)}")
    kind = plain_type(field.annotation)
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if table_in_list(field):
        return _json(variable, text, list)
    if get_origin(kind) is tuple:
        return tuple(name.strip() for name in text.split(",") if name.strip())
    if kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _table(variable: str, text: str) -> Any:
    return _json(variable, text, dict)


def _json(variable: str, text: str, kind: type) -> Any:
    wanted, shape, example = (
        ("a table", '{"app": {…}}', 'TIDEGATE_USERS={"app": {"password_file": "app.password"}}')
        if kind is dict
        else ("a list", "[{…}]", 'TIDEGATE_IAM__RULES=[{"principal": "arn:…", "users": ["app"]}]')
    )
    try:
        value = json.loads(text)
    except RecursionError:
        raise ConfigurationError(f"{variable}: is nested too deeply") from None
    except ValueError as error:
        # Only the position: the text around it may be a password.
        where = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        raise ConfigurationError(
            f"{variable}: must be {wanted} as JSON, but is malformed{where}; for example {example}"
        ) from None
    if not isinstance(value, kind):
        raise ConfigurationError(f"{variable}: must be {wanted} as JSON, for example {shape}")
    return value


def _advice(location: Location) -> str:
    model = model_at(location[:-1])
    if model is None:
        return (
            "settings are TIDEGATE_KEY, TIDEGATE_DATABASES__NAME__KEY and TIDEGATE_USERS__NAME__KEY, "
            "see docs/configuration.md"
        )
    names = model.model_fields
    return nearest(variable_of(location), [variable_of((*location[:-1], name)) for name in names])
