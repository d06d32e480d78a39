"""Settings of several proxy processes that share one database. Each docstring is an entry of the reference."""

from __future__ import annotations

from tidegate_proxy.settings.values import Flag, Model


class FleetSettings(Model, frozen=True):
    """What of `Settings` concerns its fleet."""

    fleet: Flag = False
    """Whether the proxy shares `max_connections_percent` with other proxies in front of the same PostgreSQL server,
    instead of taking all of it for itself: as many connections each as its clients need. They find each other on the
    server, on one control connection each; see docs/fleet.md. Every proxy of the fleet needs it, with the same
    databases."""

    @property
    def in_fleet(self) -> bool:
        """Whether this process is one of several."""
        return self.fleet
