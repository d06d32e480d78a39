"""Which settings a running proxy takes over on reload, and which only when it is started."""

from __future__ import annotations

from pydantic import ValidationError

from tidegate_proxy.settings.environment import read_environment, variable_of
from tidegate_proxy.settings.errors import TABLES, ConfigurationError, nearest
from tidegate_proxy.settings.models import Settings
from tidegate_proxy.settings.sizes import Sizes, Timeouts

LIVE = (
    frozenset(Sizes.model_fields)
    | frozenset(Timeouts.model_fields)
    | {
        "databases",
        "users",
        "iam",
        "pool_mode",
        "client_auth",
        "check_targets",
        "admin_users",
        "stats_users",
        "log_level",
    }
    | {"stats_period", "cloudwatch_period", "log_connections", "log_slow_queries"}
)
"""What changes live, with everything in the tables of databases, users and `iam`. All else needs a restart."""


def check_live(old: Settings, new: Settings) -> list[str]:
    """The names of the settings that have changed.

    Raises: ConfigurationError when one of them can't change while the proxy runs.
    """
    changed = [name for name in sorted(Settings.model_fields) if getattr(old, name) != getattr(new, name)]
    fixed = [name for name in changed if name not in LIVE]
    if fixed:
        raise ConfigurationError(
            f"{', '.join(fixed)} cannot change while the proxy runs: restart it, or put back what was there; "
            "nothing was changed"
        )
    return changed


def changed_settings(old: Settings, name: str, text: str) -> Settings:
    """The settings with another value of one of them. Parameters: `text`, as in an environment variable.

    Raises: ConfigurationError for one that is not known, cannot change while the proxy runs, or has no such value.
    """
    known = [key for key in Settings.model_fields if key not in TABLES]
    if name not in known:
        raise ConfigurationError(f"{name}: unknown setting; {nearest(name, known)}")
    if name not in LIVE:
        raise ConfigurationError(f"{name} cannot change while the proxy runs: set it in the configuration and restart")
    ((_, value),) = read_environment({variable_of((name,)): text}).values()
    given = {key: getattr(old, key) for key in old.model_fields_set}
    try:
        return Settings.model_validate(given | {name: value})
    except ValidationError as error:
        raise ConfigurationError(f"{name}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
