"""The layer's settings: names, variables, meanings, defaults. The reference page is made from this table."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypedDict

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

PASSWORD, SECRET, RDS_IAM, TIDEGATE_IAM = "password", "secret", "rds-iam", "tidegate-iam"
AUTHENTICATIONS = (PASSWORD, SECRET, RDS_IAM, TIDEGATE_IAM)


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


def _authentication(text: str) -> str:
    if text not in AUTHENTICATIONS:
        raise ValueError(f"must be one of {', '.join(AUTHENTICATIONS)}")
    return text


def _region(text: str) -> str:
    if not text.isascii() or not text.replace("-", "").isalnum() or text.count("-") < 2 or text != text.lower():
        raise ValueError("must be an AWS region")
    return text


def _secret_arn(text: str) -> str:
    parts = text.split(":")
    if len(parts) != 7 or parts[0] != "arn" or parts[2] != "secretsmanager" or parts[5] != "secret" or not parts[3]:
        raise ValueError("must be the whole ARN of a secret")
    return text


def _proxy_id(text: str) -> str:
    if len(text) > 255 or not all("!" <= character <= "~" for character in text):
        raise ValueError("must be 1 to 255 visible ASCII characters without spaces")
    return text


def _seconds(text: str) -> float:
    return _number(text, "seconds")


def _positive_seconds(text: str) -> float:
    value = _seconds(text)
    if value == 0:
        raise ValueError("must be a number of seconds above zero")
    return value


def _per_second(text: str) -> float:
    return _number(text, "retries per second")


def _number(text: str, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"must be a number of {unit}, zero or more")
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError("must be a whole number, zero or more")
    return int(text)


def _percentage(text: str) -> float:
    value = _number(text, "percent")
    if not 0 < value <= 100:
        raise ValueError("must be a percentage above 0, up to 100")
    return value


def _switch(text: str) -> bool:
    try:
        return {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}[text.lower()]
    except KeyError:
        raise ValueError("must be on or off") from None


class Settings(TypedDict, total=False):
    """The keyword arguments of `tidegate.connect`; None means "not given". `SETTINGS` says what each one means."""

    host: str | None
    port: int | str | None
    dbname: str | None
    user: str | None
    auth: str | None
    password: str | None
    secret_arn: str | None
    region: str | None
    proxy_id: str | None
    sslmode: str | None
    sslrootcert: str | None
    application_name: str | None
    connect_timeout: float | None
    init_timeout: float | None
    idle_check: float | None
    margin: float | None
    default_timeout: float | None
    statement_deadline: bool | None
    idle_session_timeout: float | None
    close_above: float | None
    retry_attempts: int | None
    retry_burst: int | None
    retry_rate: float | None
    metrics: bool | None


class Setting(NamedTuple):
    """One setting: the variables it is read from, in order, its meaning, an example, and its default if any.

    A setting that is `required` may be absent where a secret holds it (`in_secret`).
    """

    name: str
    variables: tuple[str, ...]
    meaning: str
    example: str
    default: str | None = None
    required: bool = False
    parse: Callable[[str], object] = str
    in_secret: bool = False


SETTINGS = (
    Setting(
        "host",
        ("TIDEGATE_HOST", "PGHOST"),
        "host name, address or socket folder of PostgreSQL or of the proxy",
        "shop.cluster-abc.eu-west-1.rds.amazonaws.com",
        required=True,
        parse=_one_host,
        in_secret=True,
    ),
    Setting("port", ("TIDEGATE_PORT", "PGPORT"), "TCP port", "5432", default="5432", parse=_port, in_secret=True),
    Setting("dbname", ("TIDEGATE_DBNAME", "PGDATABASE"), "database", "shop", required=True, in_secret=True),
    Setting("user", ("TIDEGATE_USER", "PGUSER"), "database user", "orders", required=True, in_secret=True),
    Setting(
        "auth",
        ("TIDEGATE_AUTH",),
        "what to log in with: `password`, `secret` (Secrets Manager), `rds-iam` (a token for RDS, Aurora or RDS Proxy),"
        " `tidegate-iam` (a token for the Tidegate proxy); if absent, `secret` where a secret is named and `password`"
        " elsewhere",
        "rds-iam",
        parse=_authentication,
    ),
    Setting(
        "password",
        ("TIDEGATE_PASSWORD", "PGPASSWORD"),
        "password; may be absent where the server asks for none",
        "a long random string",
    ),
    Setting(
        "secret_arn",
        ("TIDEGATE_SECRET_ARN",),
        "secret in Secrets Manager, in the shape that RDS gives it; its host, port, database and user count where no"
        " setting says otherwise",
        "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop-AbCdEf",
        parse=_secret_arn,
    ),
    Setting(
        "region",
        ("TIDEGATE_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"),
        "AWS region of the database: tokens are signed for it; Lambda sets it to the function's own",
        "eu-west-1",
        parse=_region,
    ),
    Setting(
        "proxy_id",
        ("TIDEGATE_PROXY_ID",),
        "the Tidegate proxy's identifier, which a token is bound to; the host name if absent",
        "shop-proxy",
        parse=_proxy_id,
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
        "trusted certificates: `rds` (Amazon RDS's own, shipped with the layer), `system` (the machine's, which ACM's"
        " belong to) or a file; if absent, what fits the host's name",
        "/opt/company-ca.pem",
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
    Setting(
        "statement_deadline",
        ("TIDEGATE_STATEMENT_DEADLINE",),
        "`on`: a statement that still runs at the deadline is cancelled on the server",
        "off",
        default="on",
        parse=_switch,
    ),
    Setting(
        "idle_session_timeout",
        ("TIDEGATE_IDLE_SESSION_TIMEOUT",),
        "seconds of idleness after which the server itself ends the session (PostgreSQL 14 and later); 0 for never",
        "900",
        default="900",
        parse=_seconds,
    ),
    Setting(
        "close_above",
        ("TIDEGATE_CLOSE_ABOVE",),
        "percentage of the server's `max_connections` in use above which a connection is closed, not kept, at the end"
        " of an invocation; if absent, it is always kept",
        "80",
        parse=_percentage,
    ),
    Setting(
        "retry_attempts",
        ("TIDEGATE_RETRY_ATTEMPTS",),
        "how often at most one connect or one transaction is tried again; 0 turns retries off",
        "10",
        default="10",
        parse=_count,
    ),
    Setting(
        "retry_burst",
        ("TIDEGATE_RETRY_BURST",),
        "how many retries one execution environment may make at once, over all invocations",
        "20",
        default="20",
        parse=_count,
    ),
    Setting(
        "retry_rate",
        ("TIDEGATE_RETRY_RATE",),
        "how many further retries it may make each second",
        "1",
        default="1",
        parse=_per_second,
    ),
    Setting(
        "metrics",
        ("TIDEGATE_METRICS",),
        "`on`: metrics are written where Powertools is installed, in Powertools' namespace and for its service",
        "off",
        default="on",
        parse=_switch,
    ),
)
