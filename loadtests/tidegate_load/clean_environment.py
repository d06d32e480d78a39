"""The environment variables that child processes get: the shell's, without those that would change what is measured."""

from __future__ import annotations

import os
from collections.abc import Mapping

_STEERING = ("TIDEGATE_", "PG", "LOCUST_")
"""They configure the proxy, libpq and Locust, which here are configured by nobody but us."""


def clean_environment(variables: Mapping[str, str] | None = None, *, for_aws: bool = False) -> dict[str, str]:
    """What a child process may see of the environment.

    Parameters: `variables`, by default this process's own; `for_aws`, whether the child talks to AWS, and needs the
    credentials, the region and the HTTP proxy for it. What talks to this machine only must not have them.
    Returns: a new dictionary.
    """
    found = os.environ if variables is None else variables
    return {
        name: value
        for name, value in found.items()
        if not name.startswith(_STEERING)
        and (for_aws or not (name.startswith("AWS_") or name.lower().endswith("_proxy")))
    }
