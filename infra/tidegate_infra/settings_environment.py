"""The proxy's settings as the container's environment variables (docs/configuration.md has all of them)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jsii
from aws_cdk import IStableStringProducer, Lazy, Stack
from constructs import Construct

PREFIX = "TIDEGATE_"


def as_text(value: object) -> str:
    """A setting's value as the proxy reads it from a variable. Numbers without a needless fraction."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def variables(settings: Mapping[str, object]) -> dict[str, str]:
    """Variables by name. Parameters: `settings`, dotted as in the file (`iam.region`); None leaves one out."""
    return {
        PREFIX + name.upper().replace(".", "__"): as_text(value)
        for name, value in settings.items()
        if value is not None
    }


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
