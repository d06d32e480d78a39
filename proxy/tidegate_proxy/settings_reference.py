"""docs/configuration.md, made from the settings themselves: `python -m tidegate_proxy.settings_reference`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tidegate_proxy.settings.environment import variable_of
from tidegate_proxy.settings.errors import SECTIONS, TABLES, expected
from tidegate_proxy.settings.fleet import FleetSettings
from tidegate_proxy.settings.iam import IamRule, IamSettings
from tidegate_proxy.settings.live import LIVE
from tidegate_proxy.settings.models import DatabaseSettings, Settings, UserSettings
from tidegate_proxy.settings.operation import OperationSettings
from tidegate_proxy.settings.sizes import ALIASES, Sizes, Timeouts

_INTRODUCTION = """\
# Configuration of the proxy

<!-- Generated: python -m tidegate_proxy.settings_reference > docs/configuration.md -->

The proxy reads one TOML file (`tidegate-proxy serve FILE`), or environment variables alone, or both: then the
environment wins, key by key. `tidegate-proxy check FILE` validates without serving. Whatever is wrong is
said in one line, with exit status 2. Unknown keys, and unknown variables that begin with `TIDEGATE_`, are
errors.

```toml
listen_port = 6432
default_pool_size = 20

[databases.app]
host = "db.example.com"

[users.app]
password_file = "app.password"
```

The same as environment variables. Two underscores stand between the parts of a key, and names become lower
case:

```sh
TIDEGATE_LISTEN_PORT=6432
TIDEGATE_DEFAULT_POOL_SIZE=20
TIDEGATE_DATABASES__APP__HOST=db.example.com
TIDEGATE_USERS__APP__PASSWORD_FILE=app.password
```

A table may also be given as JSON, for names that fit no variable: `TIDEGATE_DATABASES='{"My App": {"host":
"..."}}'`.

- Durations are seconds, and may have a fraction.
- A relative path in the file is relative to the file's folder; in a variable, to the working directory.
- On SIGHUP, or RELOAD in the admin console, everything is read again, passwords in files included. Either all of it is
  taken over or, with an error in the log, nothing: a mistake leaves the proxy as it was, and so does a change of a
  setting that takes effect after a restart. Clients stay. Server connections to a database that is configured
  otherwise now are replaced when they are next free; clients of a database or a user that is no more are disconnected
  after their transaction. Certificates that are renewed in their files are taken over without asking, see docs/tls.md.
"""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "none: it must be given"
    if field.default_factory is not None or field.default is None:
        return ""
    return f"`{json.dumps(field.default)}`"


_OF_THEIR_OWN = {name for part in (Sizes, Timeouts, FleetSettings, OperationSettings) for name in part.model_fields}
"""General settings that stand in a section of their own."""


def _section(title: str, model: type[BaseModel], prefix: tuple[str, ...] | None) -> Iterator[str]:
    """`prefix`, of the variables; None where there are none."""
    yield f"\n## {title}"
    for name, field in model.model_fields.items():
        if model is Settings and (name in TABLES or name in SECTIONS or name in _OF_THEIR_OWN):
            continue
        default = _default(field)
        yield f"\n### `{name}`\n"
        yield f"{' '.join((field.description or '').split())}\n"
        yield f"- Value: {expected(field)}"
        if default:
            yield f"- Default: {default}"
        also = [alias for alias, first in ALIASES.items() if first == name]
        if also:
            yield f"- Also: `{also[0]}`"
        if model is not IamSettings and model is not IamRule:
            yield f"- Takes effect: {'on reload' if prefix or name in LIVE else 'after a restart'}"
        if prefix is not None:
            yield f"- Variable: `{variable_of((*prefix, name))}`"


def reference() -> str:
    """The whole page, in Markdown."""
    lines = [_INTRODUCTION.rstrip()]
    lines += _section("General settings", Settings, ())
    lines += _section("How many", Sizes, ())
    lines += _section("How long", Timeouts, ())
    lines += _section("Several proxies", FleetSettings, ())
    lines += _section("Console, metrics and logs", OperationSettings, ())
    lines += _section("`[databases.NAME]`", DatabaseSettings, ("databases", "name"))
    lines += _section("`[users.NAME]`", UserSettings, ("users", "name"))
    lines += _section("`[iam]`", IamSettings, ("iam",))
    lines += _section("`[[iam.rules]]`", IamRule, None)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
