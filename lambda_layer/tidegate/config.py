"""Settings: explicit argument, then environment, then default, parsed once into a frozen object."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .errors import ConfigurationError

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


@dataclass(frozen=True)
class Config:
    """Everything that a `Database` needs to know, times in seconds; `SETTINGS` says what each one means."""

    host: str
    port: int
    dbname: str
    user: str
    password: str | None = field(repr=False)
    sslmode: str
    sslrootcert: str | None
    application_name: str
    connect_timeout: float
    init_timeout: float
    idle_check: float
    margin: float
    default_timeout: float


def _one_host(text: str) -> str:
    if "," in text:
        raise ValueError("must be one host name, address or socket folder")
    return text


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise ValueError("must be a port number from 1 to 65535")
    return int(text)


def _ssl_mode(text: str) -> str:
    if text not in SSL_MODES:
        raise ValueError(f"must be one of {', '.join(SSL_MODES)}")
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError("must be a number of seconds, zero or more")
    return value


def _positive_seconds(text: str) -> float:
    value = _seconds(text)
    if value == 0:
        raise ValueError("must be a number of seconds above zero")
    return value


class Setting(NamedTuple):
    """One setting: the variables it is read from, in order, its meaning, an example, and its default if
    any.
    """

    name: str
    variables: tuple[str, ...]
    meaning: str
    example: str
    default: str | None = None
    required: bool = False
    parse: Callable[[str], object] = str


SETTINGS = (
    Setting(
        "host",
        ("TIDEGATE_HOST", "PGHOST"),
        "host name, address or socket folder of PostgreSQL or of the proxy",
        "shop.cluster-abc.eu-west-1.rds.amazonaws.com",
        required=True,
        parse=_one_host,
    ),
    Setting("port", ("TIDEGATE_PORT", "PGPORT"), "TCP port", "5432", default="5432", parse=_port),
    Setting("dbname", ("TIDEGATE_DBNAME", "PGDATABASE"), "database", "shop", required=True),
    Setting("user", ("TIDEGATE_USER", "PGUSER"), "database user", "orders", required=True),
    Setting(
        "password",
        ("TIDEGATE_PASSWORD", "PGPASSWORD"),
        "password; may be absent where the server asks for none",
        "a long random string",
    ),
    Setting(
        "sslmode",
        ("TIDEGATE_SSLMODE", "PGSSLMODE"),
        "TLS, as libpq's sslmode; `disable` turns it off",
        "verify-full",
        default="verify-full",
        parse=_ssl_mode,
    ),
    Setting(
        "sslrootcert",
        ("TIDEGATE_SSLROOTCERT", "PGSSLROOTCERT"),
        "file of trusted certificates (for RDS: its CA bundle); the system's roots if absent",
        "/opt/rds-global-bundle.pem",
    ),
    Setting(
        "application_name",
        ("TIDEGATE_APPLICATION_NAME", "PGAPPNAME", "AWS_LAMBDA_FUNCTION_NAME"),
        "the name shown in pg_stat_activity",
        "orders-api",
        default="tidegate",
    ),
    Setting(
        "connect_timeout",
        ("TIDEGATE_CONNECT_TIMEOUT",),
        "seconds for one attempt to connect, shortened by the invocation's deadline",
        "10",
        default="10",
        parse=_positive_seconds,
    ),
    Setting(
        "init_timeout",
        ("TIDEGATE_INIT_TIMEOUT",),
        "seconds for the attempt during INIT, which Lambda itself ends after ten",
        "5",
        default="5",
        parse=_positive_seconds,
    ),
    Setting(
        "idle_check",
        ("TIDEGATE_IDLE_CHECK",),
        "seconds of idleness after which a connection is pinged before use",
        "60",
        default="60",
        parse=_seconds,
    ),
    Setting(
        "margin",
        ("TIDEGATE_MARGIN",),
        "seconds kept free before Lambda's own timeout, for the handler to report an error",
        "0.5",
        default="0.5",
        parse=_seconds,
    ),
    Setting(
        "default_timeout",
        ("TIDEGATE_DEFAULT_TIMEOUT",),
        "seconds that stand in for the deadline where there is no Lambda context",
        "30",
        default="30",
        parse=_positive_seconds,
    ),
)


def resolve(explicit: Mapping[str, object], environment: Mapping[str, str]) -> Config:
    """Settle every setting: explicit argument, else environment variable, else default.

    Parameters: `explicit`, arguments by setting name, None meaning "not given"; `environment`, usually
    os.environ. An empty variable counts as absent.
    Raises: ConfigurationError that names the argument or variable and shows an example value.
    """
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        source, text = _find(setting, explicit, environment)
        if text is None:
            values[setting.name] = None
            continue
        try:
            values[setting.name] = setting.parse(text)
        except ValueError as error:
            raise ConfigurationError(f"{source} is {text!r}: it {error}, for example {setting.example}") from None
    config = Config(**values)
    _refuse_contradictions(config)
    return config


def _find(setting: Setting, explicit: Mapping[str, object], environment: Mapping[str, str]) -> tuple[str, str | None]:
    given = explicit.get(setting.name)
    if given is not None:
        return f"argument {setting.name}", str(given)
    for variable in setting.variables:
        if text := environment.get(variable):
            return variable, text
    if setting.required:
        variable, *others = setting.variables
        raise ConfigurationError(
            f"no {setting.name} is configured: set {variable} (or {' or '.join(others)}, or pass"
            f" {setting.name}=), for example {variable}={setting.example}"
        )
    return setting.name, setting.default


def _refuse_contradictions(config: Config) -> None:
    if config.sslmode == "disable" and config.sslrootcert is not None:
        raise ConfigurationError(
            f"sslmode=disable contradicts sslrootcert={config.sslrootcert}: leave out TIDEGATE_SSLROOTCERT"
            " (PGSSLROOTCERT), or use TLS, for example TIDEGATE_SSLMODE=verify-full"
        )
    if config.sslrootcert == "system" and config.sslmode != "verify-full":
        raise ConfigurationError(
            f"sslrootcert=system contradicts sslmode={config.sslmode}: with the system's roots"
            " any public site could pass for the database unless its name is checked; use TIDEGATE_SSLMODE=verify-full"
        )
    if config.sslmode == "verify-ca" and config.sslrootcert is None:
        raise ConfigurationError(
            "sslmode=verify-ca needs the certificate authority's file, for example"
            " TIDEGATE_SSLROOTCERT=/opt/rds-global-bundle.pem, or use TIDEGATE_SSLMODE=verify-full"
        )
