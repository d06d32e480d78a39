"""The proxy's configuration: parsed once, from a TOML file and the environment, into frozen typed objects."""

from tidegate_proxy.settings.errors import ConfigurationError
from tidegate_proxy.settings.iam import IamRule, IamSettings
from tidegate_proxy.settings.load import load_settings
from tidegate_proxy.settings.models import DatabaseSettings, Settings, UserSettings
from tidegate_proxy.settings.values import is_loopback

__all__ = [
    "ConfigurationError",
    "DatabaseSettings",
    "IamRule",
    "IamSettings",
    "Settings",
    "UserSettings",
    "is_loopback",
    "load_settings",
]
