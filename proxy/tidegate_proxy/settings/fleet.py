"""Settings of several proxy processes that share one database. Each docstring is an entry of the reference."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, Field

from tidegate_proxy.settings.values import Flag, Model


def _ip_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("must be an IP address") from None


class FleetSettings(Model, frozen=True):
    """What of `Settings` concerns its fleet."""

    fleet: Flag = False
    """Whether the proxy shares `max_connections_percent` with other proxies in front of the same PostgreSQL server,
    instead of taking all of it for itself: as many connections each as its clients need. They find each other on the
    server, on one control connection each; see docs/fleet.md. Every proxy of the fleet needs it, with the same
    databases."""

    workers: Annotated[int, Field(strict=True, ge=1, le=256)] = 1
    """How many processes to run behind `listen_port`, one for each vCPU. The kernel spreads clients over them; each is
    a member of the fleet, also where `fleet` is off. One that dies is started again. Limits of clients
    (`max_client_conn` and those per address, database and user), the admin console and `http_port` are of all of them
    together; `max_waiting_clients` and `failed_logins_per_minute` are each process's own; the Unix socket is the first
    one's."""

    advertise_address: Annotated[str, AfterValidator(_ip_address)] | None = None
    """IP address at which other members of the fleet can reach this one, to pass on the CancelRequests that a load
    balancer or the kernel has given to the wrong one. Default: `listen_host` if it is one address, else the address
    from which the machine reaches the database."""

    fleet_port: Annotated[int, Field(strict=True, ge=0, le=65_535)] = 0
    """TCP port for those, and for nothing else; the second of several `workers` has the port after it, and so on. Other
    members must be allowed to connect to it, nobody else. 0 takes any free port."""

    @property
    def in_fleet(self) -> bool:
        """Whether this process is one of several."""
        return self.fleet or self.workers > 1
