"""Settings of the servers of a database: which there are, which of them are used, and how they are watched."""

from __future__ import annotations

from typing import Literal

from tidegate_proxy.settings.values import DNSServer, EndpointText, InstanceHosts, Model, Name, Seconds, SecondsOrZero


class ClusterSettings(Model, frozen=True):
    """The servers of one database."""

    endpoints: tuple[EndpointText, ...] = ()
    """Further servers of the same cluster, each a host or `host:port`: the proxy finds out which of them and `host`
    is the writer. Not needed where `host` itself follows the writer, as the endpoint of an RDS instance or of an
    Aurora cluster does. Example: `["db2.example.com", "db3.example.com:5433"]`."""

    aurora_instances: InstanceHosts | None = None
    """Host names of an Aurora cluster's instances, with `?` for an instance's name. The proxy asks Aurora for the
    instances and watches each of them, which is faster than waiting for the cluster's endpoint to follow a
    failover. Default: derived from `host` where that is an Aurora cluster's endpoint; to be set where it is a
    name of your own. Example: `"?.c7tj4example.us-east-1.rds.amazonaws.com"`."""

    role: Literal["writer", "reader", "any"] = "writer"
    """Which servers of the cluster clients are given: `writer`, the one that takes writes, and never one that is in
    recovery or whose configuration sets `default_transaction_read_only`; `reader`, those that take none,
    balanced; `any`, all of them, balanced, also for a server that the proxy should take as it is."""

    reader_fallback: Literal["writer", "refuse"] = "writer"
    """What clients of `reader` get while no reader is healthy: the writer, or nothing, so that they wait up to
    `connection_borrow_timeout`."""

    readers_of: Name | None = None
    """Makes this table a second name for the readers of another database: it has `role = "reader"` and all else as
    that one, and may only have sizes, times and `reader_fallback` of its own. Example: `[databases.app_ro]` with
    `readers_of = "app"`."""


class TargetSettings(Model, frozen=True):
    """How servers are found and watched, and how soon one counts as lost."""

    server_tcp_user_timeout: SecondsOrZero = 10
    """How long a server may acknowledge nothing before the connection to it counts as lost (TCP_USER_TIMEOUT, with
    keepalive probes three times as often); 0 leaves that to the system, whose two hours are far too long when a
    host or a network has died silently. Lost packets alone are sent again within a second or two."""

    target_check_interval: Seconds = 1
    """How often each server is asked, on a connection of the proxy's own, whether it is the writer. While there is
    no writer the servers are asked ten times a second."""

    target_check_timeout: Seconds = 3
    """How long a server may take for that connection, and for each answer on it. One that fails this twice in a row
    counts as unreachable: nobody is given its connections any more."""

    dns_servers: tuple[DNSServer, ...] = ()
    """DNS servers to ask for the hosts of `databases`, in place of those in `/etc/resolv.conf`. Example:
    `["10.0.0.2", "127.0.0.1:5353"]`."""
