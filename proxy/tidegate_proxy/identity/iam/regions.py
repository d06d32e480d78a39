"""AWS's partitions and regions, as botocore knows them, and the names of their STS endpoints."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

_GLOBAL_HOST = "sts.amazonaws.com"
_GLOBAL_REGION = "us-east-1"


class UnknownRegionError(ValueError):
    """Nobody knows this region; the text has no subject: "is no AWS region ..."."""


@dataclass(frozen=True, slots=True)
class Region:
    """One region.

    `partition`, as in ARNs; `known`, False where only the form of the name tells its partition; `sts_hosts`, every
    name of its STS endpoint, the usual one first.
    """

    name: str
    partition: str
    known: bool
    sts_hosts: tuple[str, ...]


@cache
def _partitions() -> list[dict[str, Any]]:
    # Here and not above: who does without IAM shall not wait for botocore.
    from botocore.loaders import Loader

    partitions: list[dict[str, Any]] = Loader().load_data("partitions")["partitions"]
    return partitions


def region(name: str) -> Region:
    """What is known of a region.

    Parameters: `name`, such as eu-west-1. One that is newer than this botocore is told by its form, and not `known`.
    Raises: UnknownRegionError.
    """
    for partition in _partitions():
        known = name in partition["regions"] and not name.endswith("-global")
        if known or re.fullmatch(partition["regionRegex"].strip("^$"), name):
            return Region(name, partition["id"], known, _sts_hosts(name, partition))
    raise UnknownRegionError("is no AWS region")


def nearest_region(name: str) -> str:
    """Advice on a name that is no known region's: a sentence."""
    regions = [each for partition in _partitions() for each in partition["regions"] if not each.endswith("-global")]
    close = difflib.get_close_matches(name, regions, n=1)
    return f"did you mean {close[0]}?" if close else "a region is, for example, eu-west-1."


def _sts_hosts(name: str, partition: dict[str, Any]) -> tuple[str, ...]:
    suffix, dual_stack = partition["outputs"]["dnsSuffix"], partition["outputs"]["dualStackDnsSuffix"]
    hosts = [
        f"sts.{name}.{suffix}",
        f"sts-fips.{name}.{suffix}",
        f"sts.{name}.{dual_stack}",
        f"sts-fips.{name}.{dual_stack}",
    ]
    if name == _GLOBAL_REGION:
        # The endpoint without a region is this one; what is signed for it is signed for this region.
        hosts.append(_GLOBAL_HOST)
    return tuple(hosts)
