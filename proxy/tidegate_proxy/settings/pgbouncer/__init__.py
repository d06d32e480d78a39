"""PgBouncer's configuration, read as it stands: https://www.pgbouncer.org/config.html is the reference."""

from tidegate_proxy.settings.pgbouncer.translate import translate
from tidegate_proxy.settings.pgbouncer.write import as_toml

__all__ = ["as_toml", "translate"]
