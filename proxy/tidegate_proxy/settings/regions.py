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
    """There is no such region; the text has no subject: "is no AWS region: " and advice."""


@dataclass(frozen=True, slots=True)
class Region:
    """One region.

    `partition`, as in ARNs; `known`, False where botocore does not know it, and only the name's form tells its
    partition; `sts_hosts`, every name of its STS endpoint, the usual one first.
    """

    name: str
    partition: str
    known: bool
    sts_hosts: tuple[str, ...]


@cache
def _partitions() -> list[dict[str, Any]]:
    # Here and not above: who does without AWS shall not wait for botocore.
    from botocore.loaders import Loader

    partitions: list[dict[str, Any]] = Loader().load_data("partitions")["partitions"]
    return partitions


def region(name: str) -> Region:
    """What is known of a region.

    Parameters: `name`, such as eu-west-1. One that is newer than this botocore is told by its form, and by consisting
    of words that other regions' names have; it is not `known`.
    Raises: UnknownRegionError.
    """
    words = {word for known in _known() for word in known.split("-")[:-1]}
    for partition in _partitions():
        known = name in _known() and name in partition["regions"]
        newer = re.fullmatch(partition["regionRegex"].strip("^$"), name) and words.issuperset(name.split("-")[:-1])
        if known or newer:
            return Region(name, partition["id"], known, _sts_hosts(name, partition))
    raise UnknownRegionError(f"is no AWS region: {nearest_region(name)}")


def is_partition(name: str) -> bool:
    """Whether ARNs may begin with `arn:NAME:`."""
    return name in {partition["id"] for partition in _partitions()}


@cache
def _known() -> frozenset[str]:
    return frozenset(name for each in _partitions() for name in each["regions"] if "global" not in name)


def nearest_region(name: str) -> str:
    """Advice on a name that is no known region's."""
    close = difflib.get_close_matches(name, sorted(_known()), n=1, cutoff=0.7)
    return f'did you mean "{close[0]}"?' if close else 'one is, for example, "eu-west-1"'


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
