"""Which settings a running proxy takes over on reload, and which only when it is started."""

from __future__ import annotations

from tidegate_proxy.settings.errors import ConfigurationError
from tidegate_proxy.settings.models import Settings
from tidegate_proxy.settings.sizes import Sizes, Timeouts

LIVE = (
    frozenset(Sizes.model_fields)
    | frozenset(Timeouts.model_fields)
    | {"databases", "users", "pool_mode", "client_auth", "check_targets", "admin_users", "stats_users", "log_level"}
)
"""What changes live, with everything in the tables of databases and users. All else needs a restart."""


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
