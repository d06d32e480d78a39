"""Aurora's own list of a cluster's instances, and the endpoints that they have."""

from __future__ import annotations

import re

from tidegate_proxy.targets.endpoint import Endpoint

# Columns: "aurora_replica_status" in the Aurora user guide; there the writer's session_id is always MASTER_SESSION_ID,
# and last_update_timestamp is null for the instance that is asked. What has not been heard of for five minutes is gone:
# the figure of AWS's own drivers. Only in pg_catalog: elsewhere anybody may create a function of that name, and
# would learn the proxy's password from the connections that it led to hosts of its choice.
TOPOLOGY = """
SELECT server_id FROM pg_catalog.aurora_replica_status()
WHERE session_id = 'MASTER_SESSION_ID' OR last_update_timestamp IS NULL
    OR last_update_timestamp > pg_catalog.now() - interval '5 minutes'
ORDER BY server_id
"""

# "Naming constraints in Amazon RDS": letters, digits and hyphens.
_IDENTIFIER = re.compile(r"[A-Za-z0-9-]{1,63}")

# "Types of Amazon Aurora endpoints": NAME.cluster-ID.REGION.rds.amazonaws.com, with -ro for readers and -custom for
# custom ones, and instances at NAME.ID.REGION.rds.amazonaws.com.
_CLUSTER = re.compile(r"[^.]+\.cluster-(?:ro-|custom-)?([^.]+\.[^.]+\.rds\.amazonaws\.com(?:\.cn)?)", re.IGNORECASE)


def instance_pattern(host: str) -> str | None:
    """The host names of a cluster's instances, with `?` for an instance's name; None unless `host` is a cluster's."""
    found = _CLUSTER.fullmatch(host)
    return f"?.{found[1]}" if found else None


def instance_endpoints(names: tuple[str, ...], pattern: str, port: int) -> list[Endpoint]:
    """Where the instances are; names that no instance can have are left out."""
    return [Endpoint(pattern.replace("?", name.lower()), port) for name in names if _IDENTIFIER.fullmatch(name)]
