"""All clusters of the proxy: databases on the same servers share one, and so its control connections."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping

from tidegate_proxy.net.resolve import Resolver
from tidegate_proxy.settings import DatabaseSettings, Settings
from tidegate_proxy.targets.aurora import instance_pattern
from tidegate_proxy.targets.cluster import Cluster
from tidegate_proxy.targets.endpoint import Endpoint
from tidegate_proxy.targets.health import TargetHealth
from tidegate_proxy.targets.planner import Access


class Targets:
    """Every target that the proxy knows. Parameters: `settings`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clusters: dict[Hashable, Cluster] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.resolver = Resolver(settings.dns_servers)

    def cluster(self, name: str, database: DatabaseSettings) -> Cluster:
        """The cluster of a database.

        Parameters: `name`, of the entry in `databases` that `database` comes from.
        """
        key = _key(database)
        cluster = self._clusters.get(key)
        if cluster is None:
            cluster = self._clusters[key] = Cluster(
                endpoints(database),
                pattern=database.aurora_instances or instance_pattern(database.host),
                resolver=self.resolver,
                interval=self._settings.target_check_interval,
                timeout=self._settings.target_check_timeout,
            )
        cluster.databases.add(name)
        return cluster

    def keep_only(self, databases: Mapping[str, DatabaseSettings]) -> None:
        """These are the databases now: watch no cluster that none of them has."""
        for cluster in self._clusters.values():
            cluster.databases.clear()
        for name, database in databases.items():
            used = self._clusters.get(_key(database))
            if used is not None:
                used.databases.add(name)
        for key, cluster in [*self._clusters.items()]:
            if not cluster.databases:
                del self._clusters[key]
                task = asyncio.get_running_loop().create_task(cluster.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    def health(self) -> list[TargetHealth]:
        """How all targets are that are watched: those of databases that a client has asked for, or that name a user."""
        return [health for cluster in self._clusters.values() for health in cluster.health()]

    async def close(self) -> None:
        """Watch no longer."""
        await asyncio.gather(*(cluster.close() for cluster in self._clusters.values()), *self._closing)
        await self.resolver.close()


def _key(database: DatabaseSettings) -> Hashable:
    return endpoints(database), database.aurora_instances, database.tls, database.tls_ca


def endpoints(database: DatabaseSettings) -> tuple[Endpoint, ...]:
    """The endpoints of a database as configured: `host` first, each once."""
    others = (Endpoint.parse(text, database.port) for text in database.endpoints)
    return tuple(dict.fromkeys([Endpoint(database.host, database.port), *others]))


def access(database: DatabaseSettings) -> Access:
    """What a pool of this database wants of its cluster."""
    return Access(database.role, fallback=database.reader_fallback == "writer")
