"""Every key of PgBouncer's manual (1.25): what it is here, or that it has no effect."""

from __future__ import annotations

from typing import Any

from tidegate_proxy.settings.values import YEAR


def seconds(text: str) -> float:
    """A duration; PgBouncer also takes fractions."""
    return float(text)


def limited(text: str) -> float:
    """A duration of which 0 means for ever there, but has no such meaning here."""
    return float(text) or YEAR


def lifetime(text: str) -> float:
    """`server_lifetime`, of which 0 means that a connection is used once."""
    return float(text) or 0.001


def prepared_statements(text: str) -> int:
    """`max_prepared_statements`, of which 0 means that clients' statements are nobody's concern: here they always are,
    and the fewest may stay on a server connection."""
    return int(text) or 1


def names(text: str) -> tuple[str, ...]:
    """A list separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def truth(text: str) -> bool:
    """A boolean, in any of the ways of an ini file."""
    return text.lower() in ("1", "t", "true", "y", "yes", "on")


GENERAL: dict[str, tuple[str, Any]] = {
    "listen_port": ("listen_port", int),
    "unix_socket_mode": ("unix_socket_mode", str),
    "unix_socket_group": ("unix_socket_group", str),
    "pool_mode": ("pool_mode", str),
    "max_client_conn": ("max_client_conn", int),
    "default_pool_size": ("default_pool_size", int),
    "min_pool_size": ("min_pool_size", int),
    "reserve_pool_size": ("reserve_pool_size", int),
    "reserve_pool_timeout": ("reserve_pool_timeout", seconds),
    "max_db_connections": ("max_db_connections", int),
    "max_db_client_connections": ("max_db_client_connections", int),
    "max_user_connections": ("max_user_connections", int),
    "max_user_client_connections": ("max_user_client_connections", int),
    "max_prepared_statements": ("max_prepared_statements", prepared_statements),
    "stats_period": ("stats_period", seconds),
    "auth_query": ("auth_query", str),
    "log_connections": ("log_connections", truth),
    "admin_users": ("admin_users", names),
    "stats_users": ("stats_users", names),
    "server_lifetime": ("server_lifetime", lifetime),
    "server_idle_timeout": ("server_idle_timeout", seconds),
    "server_connect_timeout": ("server_connect_timeout", limited),
    "server_login_retry": ("server_login_retry", limited),
    "client_login_timeout": ("client_login_timeout", limited),
    "query_timeout": ("query_timeout", seconds),
    "query_wait_timeout": ("connection_borrow_timeout", limited),
    "client_idle_timeout": ("idle_client_timeout", seconds),
    "idle_transaction_timeout": ("idle_transaction_timeout", seconds),
    "transaction_timeout": ("transaction_timeout", seconds),
}
"""Keys of [pgbouncer] that are a setting of their own here."""

PLACED = frozenset(
    [
        "listen_addr",
        "unix_socket_dir",
        "auth_type",
        "auth_file",
        "auth_user",
        "auth_dbname",
        "verbose",
        "client_tls_sslmode",
        "client_tls_key_file",
        "client_tls_cert_file",
        "client_tls_ca_file",
        "server_tls_sslmode",
        "server_tls_ca_file",
    ]
)
"""Keys of [pgbouncer] that are translated together with others."""

WITHOUT_EFFECT = frozenset(
    [
        "logfile",
        "pidfile",
        "user",
        "server_round_robin",
        "track_extra_parameters",
        "ignore_startup_parameters",
        "peer_id",
        "disable_pqexec",
        "application_name_add_host",
        "conffile",
        "service_name",
        "job_name",
        "scram_iterations",
        "auth_hba_file",
        "auth_ident_file",
        "auth_ldap_options",
        "syslog",
        "syslog_ident",
        "syslog_facility",
        "log_disconnections",
        "log_pooler_errors",
        "log_stats",
        "server_reset_query",
        "server_reset_query_always",
        "server_check_delay",
        "server_check_query",
        "server_fast_close",
        "autodb_idle_timeout",
        "pool_idle_timeout",
        "dns_max_ttl",
        "dns_nxdomain_ttl",
        "dns_zone_check_period",
        "resolv_conf",
        "query_wait_notify",
        "login_notify_message",
        "client_tls_protocols",
        "client_tls_ciphers",
        "client_tls13_ciphers",
        "client_tls_ecdhcurve",
        "client_tls_dheparams",
        "server_tls_key_file",
        "server_tls_cert_file",
        "server_tls_protocols",
        "server_tls_ciphers",
        "server_tls13_ciphers",
        "cancel_wait_timeout",
        "suspend_timeout",
        "pkt_buf",
        "max_packet_size",
        "listen_backlog",
        "sbuf_loopcnt",
        "so_reuseport",
        "tcp_defer_accept",
        "tcp_socket_buffer",
        "tcp_keepalive",
        "tcp_keepcnt",
        "tcp_keepidle",
        "tcp_keepintvl",
        "tcp_user_timeout",
    ]
)
"""Keys of [pgbouncer] that have no effect here: named in a warning."""

DEFAULTS: dict[str, Any] = {
    "listen_host": "",
    "unix_socket_dir": "/tmp",  # noqa: S108 -- PgBouncer's own default
    "pool_mode": "session",
    "max_client_conn": 100,
    "reserve_pool_size": 0,
    "reserve_pool_timeout": 5.0,
    "idle_transaction_timeout": 0.0,
    "idle_client_timeout": 0.0,
    "client_lifetime": 0.0,
    "server_login_retry": 15.0,
    "max_connections_percent": 100,
    "max_idle_connections_percent": 100,
    "log_connections": True,
    "check_targets": False,
    "client_tls": "disable",
}
"""What holds in PgBouncer where nothing is said, and is otherwise here."""

OF_DATABASE: dict[str, tuple[str, Any]] = {
    "dbname": ("dbname", str),
    "port": ("port", int),
    "user": ("user", str),
    "password": ("password", str),
    "auth_user": ("auth_user", str),
    "auth_dbname": ("auth_dbname", str),
    "pool_size": ("pool_size", int),
    "min_pool_size": ("min_pool_size", int),
    "reserve_pool_size": ("reserve_pool_size", int),
    "reserve_pool": ("reserve_pool_size", int),
    "pool_mode": ("pool_mode", str),
    "max_db_connections": ("max_db_connections", int),
    "max_db_client_connections": ("max_db_client_connections", int),
    "server_lifetime": ("server_lifetime", lifetime),
    "query_wait_timeout": ("connection_borrow_timeout", limited),
}
"""Keys of a connection string in [databases]."""

SESSION = ("client_encoding", "datestyle", "timezone", "application_name")
"""Keys of a connection string that are parameters of the server's session."""

DATABASE_WITHOUT_EFFECT = frozenset({"auth_query", "load_balance_hosts", "target_session_attrs"})

OF_USER: dict[str, tuple[str, Any]] = {
    "pool_size": ("pool_size", int),
    "reserve_pool_size": ("reserve_pool_size", int),
    "pool_mode": ("pool_mode", str),
    "max_user_connections": ("max_user_connections", int),
    "max_user_client_connections": ("max_user_client_connections", int),
    "query_timeout": ("query_timeout", seconds),
    "query_wait_timeout": ("connection_borrow_timeout", limited),
    "idle_transaction_timeout": ("idle_transaction_timeout", seconds),
    "transaction_timeout": ("transaction_timeout", seconds),
    "client_idle_timeout": ("idle_client_timeout", seconds),
}
"""Keys of a line in [users]."""
