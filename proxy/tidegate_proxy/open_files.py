"""Every connection is an open file, and the operating system limits those per process."""

from __future__ import annotations

import resource

from tidegate_proxy.settings import ConfigurationError, Settings

RESERVE = 100
"""Open files that are neither a client's nor a server's: listening sockets, the event loop, logs, name
lookups."""


def fit_to_open_files(settings: Settings, hard_limit: int) -> tuple[Settings, str | None]:
    """Fit the number of clients to what the process may open.

    What somebody configured must hold, so an explicit `max_client_conn` that does not fit is an
    error; the default is lowered. One pool per database is counted.

    Parameters: `hard_limit`, the most files that the process may open.
    Returns: the settings, and a warning if the number of clients had to be lowered.
    Raises: ConfigurationError.
    """
    reserve = settings.reserve_pool_size
    others = RESERVE + sum(
        (database.pool_size or settings.default_pool_size)
        + (reserve if database.reserve_pool_size is None else database.reserve_pool_size)
        for database in settings.databases.values()
    )
    needed = settings.max_client_conn + others
    possible = hard_limit - others
    if hard_limit == resource.RLIM_INFINITY or needed <= hard_limit:
        return settings, None
    remedy = f"raise the limit to {needed} (ulimit -Hn, LimitNOFILE=, or docker run --ulimit nofile=)"
    if "max_client_conn" in settings.model_fields_set or possible < 1:
        lower = f", or set max_client_conn to at most {possible}" if possible >= 1 else ""
        raise ConfigurationError(
            f"max_client_conn: {settings.max_client_conn} clients need {needed} open files, "
            f"but the hard limit is {hard_limit}: {remedy}{lower}"
        )
    warning = (
        f"max_client_conn is lowered from {settings.max_client_conn} to {possible}, "
        f"because the hard limit of open files is {hard_limit}: {remedy}, or set max_client_conn"
    )
    return settings.model_copy(update={"max_client_conn": possible}), warning


def hard_limit_of_open_files() -> int:
    """The most files that this process may open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def raise_open_files() -> None:
    """Let this process open as many files as it may: the soft limit becomes the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
