"""How many connections an RDS or Aurora PostgreSQL accepts by default, as far as the constructs tell at synth time.

Sources: RDS user guide, "Maximum number of database connections", LEAST({DBInstanceClassMemory/9531392}, 5000) for RDS
and Aurora PostgreSQL; Aurora user guide, "Maximum connections for Aurora Serverless v2", the table for PostgreSQL. The
formula counts the memory that the instance's system leaves, a little less than the class has, so what is computed here
is an upper bound.
"""

from __future__ import annotations

import re

from aws_cdk import Stack
from aws_cdk import aws_rds as rds
from constructs import IConstruct

BYTES_PER_CONNECTION = 9_531_392
MOST = 5_000

SERVERLESS = {1: 189, 4: 823, 8: 1_669, 16: 3_360, 32: 5_000}
"""`max_connections` by the highest ACU that the cluster may take."""

SERVERLESS_FROM_HALF = 2_000
"""The most for a cluster that may go down to 0 or 0.5 ACU."""

GIB_OF_LARGE = {"c": 4, "m": 8, "t": 8, "r": 16, "x": 32}
"""Memory in GiB of the size `large`, by the first letter of the family."""

CLASS = re.compile(r"db\.([a-z])[a-z0-9-]+\.(?:(\d+)?(xlarge)|(micro|small|medium|large))(?:\..*)?")

SIZES = {"micro": 1 / 8, "small": 1 / 4, "medium": 1 / 2, "large": 1, "xlarge": 2}


def connections_of_class(instance_class: str) -> int | None:
    """Most connections that an instance of `instance_class`, such as `db.t4g.micro`, accepts by default.

    Returns: None for a class that is not known.
    """
    matched = CLASS.fullmatch(instance_class)
    if matched is None or matched[1] not in GIB_OF_LARGE:
        return None
    memory = GIB_OF_LARGE[matched[1]] * SIZES[matched[3] or matched[4]] * int(matched[2] or 1) * 2**30
    return min(int(memory / BYTES_PER_CONNECTION), MOST)


def connections_of_serverless(least: float, most: float) -> int:
    """Most connections that Aurora Serverless v2 accepts by default.

    Parameters: `least` and `most`, in ACU. Between two rows of the table the higher counts: an upper bound.
    """
    found = next((limit for acu, limit in SERVERLESS.items() if most <= acu), MOST)
    return min(found, SERVERLESS_FROM_HALF) if least <= 0.5 else found


def connections_of(database: IConstruct) -> int | None:
    """Most connections that `database`, an instance or a provisioned cluster, accepts by default.

    Returns: None if nothing tells; the capacity of Serverless v2 cannot be read from its construct.
    """
    # The class is set late by CDK, as what CloudFormation will read.
    resolve = Stack.of(database).resolve
    nodes = database.node.find_all()
    classes = [str(resolve(node.db_instance_class)) for node in nodes if isinstance(node, rds.CfnDBInstance)]
    limits = [connections_of_class(kind) for kind in classes]
    known = [limit for limit in limits if limit is not None]
    # A failover makes a reader the writer: the smallest counts.
    return min(known) if known and len(known) == len(limits) else None
