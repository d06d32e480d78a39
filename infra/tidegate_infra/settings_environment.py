"""The proxy's settings as the container's environment variables (docs/configuration.md has all of them)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import jsii
from aws_cdk import IStableStringProducer, Lazy, Stack
from constructs import Construct

from tidegate_infra.errors import DeploymentError

PREFIX = "TIDEGATE_"


def as_text(name: str, value: object) -> str:
    """A setting's value as the proxy reads it from a variable: numbers without a needless fraction, names separated by
    commas, tables and lists of tables as JSON.

    Parameters: `name`, the setting's, for the error.
    Raises: DeploymentError for what no variable can hold.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() else str(value)
        case Mapping():
            return _json(name, dict(value))
        case [] | ():
            return ""
        case list() | tuple() if all(isinstance(part, str) for part in value):
            if wrong := [part for part in value if "," in part]:
                raise DeploymentError(f"settings: {name}: {wrong[0]!r} must not contain a comma, which separates names")
            return ",".join(value)
        case list() | tuple() if all(isinstance(part, Mapping) for part in value):
            return _json(name, [dict(part) for part in value])
    raise DeploymentError(
        f"settings: {name}: must be a text, a number, true or false, a list of texts, a table or a list of tables, "
        f"but is of type {type(value).__name__}"
    )


def _json(name: str, value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise DeploymentError(f"settings: {name}: cannot be written as JSON: {error}") from None


def variable(name: str) -> str:
    """The variable of a setting. Parameters: `name`, dotted as in the file (`iam.region`)."""
    return PREFIX + name.upper().replace(".", "__")


def variables(settings: Mapping[str, object]) -> dict[str, str]:
    """Variables by name.

    Parameters: `settings`, dotted as in the file (`iam.region`); None leaves one out.
    Raises: DeploymentError for a value that no variable can hold.
    """
    return {variable(name): as_text(name, value) for name, value in settings.items() if value is not None}


def as_json(scope: Construct, value: object) -> str:
    """JSON with values that only the deployment knows, such as a database's endpoint, in their places."""
    text: str = Stack.of(scope).to_json_string(value)
    return text


def late_json(scope: Construct, make: Callable[[], object]) -> str:
    """JSON of what `make` returns when the stack is synthesised; until then it may grow."""
    text: str = Lazy.string(_Late(lambda: as_json(scope, make())))
    return text


@jsii.implements(IStableStringProducer)
class _Late:
    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make

    def produce(self) -> str:
        return self._make()
