"""From the construct's parameters to the proxy's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aws_cdk import Duration, Stack
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from tidegate_infra.checks import Limits
from tidegate_infra.endpoint import DNS_TTL, EndpointType
from tidegate_infra.errors import DeploymentError
from tidegate_infra.grants import ConnectRules
from tidegate_infra.metrics import NAMESPACE
from tidegate_infra.proxy_target import ProxyTarget
from tidegate_infra.security_groups import FLEET_PORT, HEALTH_PORT, LISTEN_PORT
from tidegate_infra.settings_environment import as_json, late_json

DRAIN = 115
"""Seconds, of the 120 between SIGTERM and SIGKILL: for clients to find the task no longer, and then for transactions to
finish."""

DRAIN_DELAY = {EndpointType.NLB: 10, EndpointType.DNS: 3 * DNS_TTL}
"""Seconds of them in which new clients are still taken: until the load balancer has noticed; or until nobody has the
task's address any more, which Cloud Map may hand out for some seconds after ECS has taken it back, and which clients
may then keep for its TTL."""

_FIXED = "other resources rely on it: leave it out"
OWNED: Mapping[str, str] = {
    "listen_host": f"the proxy listens on the task's own address, and {_FIXED}",
    "listen_port": f"clients connect to {LISTEN_PORT}, and {_FIXED}",
    "http_port": f"health is asked for at {HEALTH_PORT}, and {_FIXED}",
    "fleet_port": f"tasks reach each other from {FLEET_PORT} on, and {_FIXED}",
    "workers": "a task has a process for each whole vCPU: give cpu, for example cpu=4096 makes 4 processes",
    "proxy_name": 'metrics, alarms and tokens are bound to it: give db_proxy_name="{value}"',
    "cloudwatch_namespace": f"alarms and the dashboard look in {NAMESPACE}, and {_FIXED}",
    "idle_client_timeout": "the load balancer waits longer than it: give idle_client_timeout=Duration.seconds({value})",
}
"""Settings that decide about other resources, too: why, and what to do instead."""

EVERY_DATABASE = "*"
READERS = "_ro"


@dataclass(frozen=True)
class Identity:
    """How the proxy and its clients log in: `secrets` by database user; `iam_to_database`, whether the proxy uses IAM;
    `rules`, which clients may, None if none; `certificate` and `require_tls` for the clients' side."""

    secrets: Mapping[str, secretsmanager.ISecret]
    iam_to_database: bool
    rules: ConnectRules | None
    certificate: secretsmanager.ISecret | None
    require_tls: bool


@dataclass(frozen=True)
class Behaviour:
    """The rest of what `rds.DatabaseProxy` can be told."""

    borrow_timeout: Duration
    idle_client_timeout: Duration
    init_query: str | None
    debug_logging: bool


def check_own(settings: Mapping[str, object]) -> None:
    """Parameters: `settings`, given by name. Raises: DeploymentError for one that would contradict other resources."""
    for name, why in OWNED.items():
        if settings.get(name) is not None:
            raise DeploymentError(f"settings: {name}: {why.format(value=settings[name])}")


def proxy_settings(
    scope: Construct,
    *,
    name: str,
    target: ProxyTarget,
    databases: Sequence[str],
    limits: Limits,
    identity: Identity,
    behaviour: Behaviour,
    endpoint_type: EndpointType,
    workers: int,
) -> dict[str, Any]:
    """The settings by name, dotted; None for those that keep their default.

    Parameters: `databases`, names of databases, none for whatever clients ask for; `workers`, processes of a task.
    """
    certificate = identity.certificate
    client_tls = "require" if identity.require_tls else ("allow" if certificate else "disable")
    settings: dict[str, Any] = {
        "listen_host": "0.0.0.0",  # noqa: S104 (a container of its own; its security group says who can reach it)
        "listen_port": LISTEN_PORT,
        "http_port": HEALTH_PORT,
        "proxy_name": name,
        "cloudwatch_metrics": True,
        "cloudwatch_namespace": NAMESPACE,
        "log_format": "json",
        "log_level": "debug" if behaviour.debug_logging else "info",
        # A database that is away is for /readyz to say; a task that does not start at all would say less.
        "check_targets": False,
        "drain_delay": DRAIN_DELAY[endpoint_type],
        "drain_timeout": DRAIN - DRAIN_DELAY[endpoint_type],
        "connection_borrow_timeout": behaviour.borrow_timeout.to_seconds(),
        "idle_client_timeout": behaviour.idle_client_timeout.to_seconds(),
        "init_query": behaviour.init_query,
        # All tasks together keep within it, however many there are.
        "fleet": True,
        "workers": workers if workers > 1 else None,
        "fleet_port": FLEET_PORT,
        "max_connections_percent": limits.max_connections_percent,
        "max_idle_connections_percent": limits.max_idle_connections_percent,
        "default_pool_size": limits.pool_size,
        "client_tls": client_tls,
        "client_tls_secret": None if certificate is None else certificate.secret_arn,
        "aws_region": Stack.of(scope).region,
        "databases": late_json(scope, lambda: _databases(target, databases, identity)),
    }
    if identity.secrets:
        users = {user: {"secret": secret.secret_arn} for user, secret in identity.secrets.items()}
        settings["users"] = as_json(scope, users)
    if (rules := identity.rules) is not None:
        settings |= {
            "iam.region": Stack.of(scope).region,
            "iam.proxy_id": name,
            "iam.rules": late_json(scope, rules.as_setting),
        }
    return settings


def _databases(target: ProxyTarget, names: Sequence[str], identity: Identity) -> dict[str, Any]:
    server: dict[str, Any] = {"host": target.host, "port": target.port}
    if identity.iam_to_database:
        server["server_auth"] = "iam"
        # Without a password there is nobody else whom the fleet's own connection could log in as.
        if identity.rules is not None and identity.rules.db_users:
            server["auth_user"] = identity.rules.db_users[0]
    if not names:
        return {EVERY_DATABASE: server}
    tables: dict[str, Any] = {}
    for name in names:
        tables[name] = dict(server)
        if target.has_readers:
            tables[name + READERS] = {"readers_of": name}
    return tables
