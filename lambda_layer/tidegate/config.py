"""Explicit argument, then environment, then default, settled once into a frozen object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from . import tls
from .errors import ConfigurationError
from .settings import PASSWORD, RDS_IAM, SECRET, SETTINGS, TIDEGATE_IAM, Setting

__all__ = ["SETTINGS", "Config", "resolve"]


class Config(NamedTuple):
    """Everything that a `Database` needs to know, times in seconds; `SETTINGS` says what each one means.

    `host`, `dbname` and `user` are empty and `port` is 0 where a secret is to say them: connect with what
    `PasswordSource.complete` returns. `sslrootcert` is the file that libpq is to read, or its word `system`.

    A named tuple, because a frozen dataclass of this size takes three milliseconds of every cold start to make.
    """

    host: str
    port: int
    dbname: str
    user: str
    auth: str
    password: str | None
    secret_arn: str | None
    region: str | None
    proxy_id: str | None
    sslmode: str
    sslrootcert: str | None
    application_name: str
    connect_timeout: float
    init_timeout: float
    idle_check: float
    margin: float
    default_timeout: float
    statement_deadline: bool
    idle_session_timeout: float
    close_above: float | None
    retry_attempts: int
    retry_burst: int
    retry_rate: float
    metrics: bool

    def __repr__(self) -> str:
        shown = {name: value for name, value in self._asdict().items() if name != "password"}
        return f"Config({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def resolve(explicit: Mapping[str, object], environment: Mapping[str, str]) -> Config:
    """Settle every setting: explicit argument, else environment variable, else default.

    Parameters: `explicit`, arguments by setting name, None meaning "not given"; `environment`, usually
    os.environ. An empty variable counts as absent.
    Raises: ConfigurationError that names the argument or variable and shows an example value.
    """
    for name in explicit.keys() - {setting.name for setting in SETTINGS}:
        raise ConfigurationError(f"there is no setting {name!r}: the settings are {_all_names()}")
    found = {setting.name: _find(setting, explicit, environment) for setting in SETTINGS}
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        source, text = found[setting.name]
        if text is None:
            values[setting.name] = None
            continue
        if not _is_text(text):
            # Without the text, which may be a password.
            raise ConfigurationError(
                f"{source} holds a NUL character or bytes that are not UTF-8, and PostgreSQL cannot be sent those: set"
                f" it to a text, for example {setting.example}"
            )
        try:
            values[setting.name] = setting.parse(text)
        except ValueError as error:
            raise ConfigurationError(f"{source} is {text!r}: it {error}, for example {setting.example}") from None
    _settle_authentication(values, found)
    for setting in SETTINGS:
        if values[setting.name] is not None:
            continue
        if setting.in_secret and values["auth"] == SECRET:
            values[setting.name] = 0 if setting.name == "port" else ""
        elif setting.required:
            raise _missing(setting)
        elif setting.default is not None:
            values[setting.name] = setting.parse(setting.default)
    _refuse_contradictions(values)
    # A secret may still have to say the host; then so does `complete`.
    if values["host"]:
        wanted = (values[name] for name in ("host", "sslmode", "sslrootcert", "region"))
        values["sslrootcert"] = tls.root_file(*wanted)
    return Config(**values)


def _all_names() -> str:
    return ", ".join(setting.name for setting in SETTINGS)


def _find(setting: Setting, explicit: Mapping[str, object], environment: Mapping[str, str]) -> tuple[str, str | None]:
    given = explicit.get(setting.name)
    if given is not None:
        return f"argument {setting.name}", str(given)
    for variable in setting.variables:
        if text := environment.get(variable):
            return variable, text
    return setting.name, None


def _is_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _missing(setting: Setting, why: str = "") -> ConfigurationError:
    variable, *others = setting.variables
    ways = " or ".join([*others, f"pass {setting.name}="])
    return ConfigurationError(
        f"no {setting.name} is configured{why}: set {variable} (or {ways}), for example {variable}={setting.example}"
    )


def _settle_authentication(values: dict[str, Any], found: Mapping[str, tuple[str, str | None]]) -> None:
    """Choose `auth` where it is not given, and refuse settings that do not go with it."""
    chosen = values["auth"]
    if chosen is None:
        chosen = values["auth"] = SECRET if values["secret_arn"] is not None else PASSWORD
    by_name = {setting.name: setting for setting in SETTINGS}
    if chosen == SECRET and values["secret_arn"] is None:
        raise _missing(by_name["secret_arn"], " for auth=secret")
    if chosen in (RDS_IAM, TIDEGATE_IAM) and values["region"] is None:
        raise _missing(by_name["region"], f" for auth={chosen}")
    for name, fitting in (("password", PASSWORD), ("secret_arn", SECRET), ("proxy_id", TIDEGATE_IAM)):
        if values[name] is not None and chosen != fitting:
            raise ConfigurationError(
                f"{found[name][0]} is set, but auth={chosen} does not use it: remove it, or set TIDEGATE_AUTH={fitting}"
            )
    if chosen == TIDEGATE_IAM and values["proxy_id"] is None:
        values["proxy_id"] = values["host"]


def _refuse_contradictions(values: Mapping[str, Any]) -> None:
    mode, roots, host, auth = values["sslmode"], values["sslrootcert"], values["host"], values["auth"]
    if mode == "disable" and roots is not None:
        raise ConfigurationError(
            f"sslmode=disable contradicts sslrootcert={roots}: leave out TIDEGATE_SSLROOTCERT"
            " (PGSSLROOTCERT), or use TLS, for example TIDEGATE_SSLMODE=verify-full"
        )
    if roots == "system" and mode != "verify-full":
        raise ConfigurationError(
            f"sslrootcert=system contradicts sslmode={mode}: with the system's roots"
            " any public site could pass for the database unless its name is checked; use TIDEGATE_SSLMODE=verify-full"
        )
    if mode == "verify-ca" and roots is None:
        raise ConfigurationError(
            "sslmode=verify-ca needs the certificate authority, for example TIDEGATE_SSLROOTCERT=rds or"
            " TIDEGATE_SSLROOTCERT=/opt/company-ca.pem, or use TIDEGATE_SSLMODE=verify-full"
        )
    if auth in (RDS_IAM, TIDEGATE_IAM) and mode in ("disable", "allow", "prefer") and not tls.is_local(host):
        raise ConfigurationError(
            f"sslmode={mode} contradicts auth={auth}: a token is good for whoever reads it on the way;"
            " use TIDEGATE_SSLMODE=verify-full"
        )
