"""What a member asks its PostgreSQL server on its control connection."""

from __future__ import annotations

from collections.abc import Iterable

from tidegate_proxy.fleet.name import PATTERN, format_name, parse_name
from tidegate_proxy.fleet.planner import CONTROL_CONNECTIONS, LEAST_SPARE, MOST_SPARE, Member, View
from tidegate_proxy.pool import planner
from tidegate_proxy.pool.session import literal

LOCK = 0x7469646567617465
"""Advisory lock under which shares grow, "tidegate" in ASCII: one member at a time, for the time of one query."""

LOCK_TIMEOUT = 1000
"""Milliseconds to wait for it: it is held for a few, unless somebody else has taken it."""

MISSED_AFTER = 10
"""Seconds of silence after which the server takes a member's machine for lost, and its share is free: by keepalives
where nothing is under way, by TCP_USER_TIMEOUT where something is; tcp(7). By default it would wait for two hours."""

_KEEPALIVES = "tcp_keepalives_idle = 4; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3"

# Numbers of connections count what takes a slot of max_connections. Where the kind of a connection is hidden, for want
# of pg_read_all_stats, whatever is in a database is taken for one.
_SEEN = """
WITH seen AS MATERIALIZED (
    SELECT application_name, usename = current_user OR usename = ANY ({users}::text[]) AS ours
    FROM pg_catalog.pg_stat_activity
    WHERE backend_type = 'client backend' OR backend_type IS NULL AND datid IS NOT NULL
), member AS MATERIALIZED (
    SELECT application_name, pg_catalog.string_to_array(application_name, '/') AS part
    FROM seen WHERE ours AND application_name ~ '{pattern}'
)
"""

# Only this proxy's own texts and numbers, and names as literals, are put in.
# ruff: noqa: S608
_LOOK = (
    _SEEN
    + """
SELECT pg_catalog.current_setting('max_connections'),
    pg_catalog.current_setting('superuser_reserved_connections'),
    COALESCE(pg_catalog.current_setting('reserved_connections', true), '0'),
    (SELECT pg_catalog.count(*) FROM seen), (SELECT pg_catalog.count(*) FROM seen WHERE ours),
    (SELECT pg_catalog.string_agg(application_name, ' ') FROM member)
"""
)

# See planner.claimable, of which this is the other half; a test compares them.
CLAIM = (
    _SEEN
    + """
, now AS MATERIALIZED (
    SELECT (SELECT pg_catalog.count(*) FROM seen) AS connections,
        (SELECT pg_catalog.count(*) FROM seen WHERE ours) AS ours,
        pg_catalog.count(*) AS members, {controls} * pg_catalog.count(*) AS controls,
        pg_catalog.sum(part[3]::bigint) AS shares,
        pg_catalog.sum(part[4]::bigint) AS held
    FROM member
), allowed AS MATERIALIZED (
    SELECT greatest(0, least({wanted},
        {budget} - controls - least({most_spare}, greatest({least_spare}, members)) - shares
            - greatest(0, ours - controls - held),
        {room} - controls - shares - greatest(0, connections - controls - held))) AS more
    FROM now
)
SELECT more, pg_catalog.set_config('application_name', '{before}' || ({share} + more) || '{after}', false) FROM allowed
"""
)


def announce(member: Member) -> str:
    """SQL that publishes what this member has, for as long as it is there."""
    # The name has no characters that would need quoting.
    return (
        f"SET {_KEEPALIVES}; SET tcp_user_timeout = {MISSED_AFTER * 1000}; "
        f"SET application_name = '{format_name(member)}'"
    )


def look(users: Iterable[str]) -> str:
    """SQL that shows what `View` has; `users`, those that members log in as, beside the one who asks."""
    return _LOOK.format(users=_array(users), pattern=PATTERN)


def claim(member: Member, wanted: int, view: View, users: Iterable[str]) -> str:
    """SQL that lets this member's share grow by at most `wanted`, as far as there is room at that moment, publishes the
    new share, and shows by how much it has grown.

    Parameters: `view`, for the budget and the room.
    """
    before, after = format_name(member).split(f"/{member.share}/", 1)
    sql = CLAIM.format(
        users=_array(users),
        pattern=PATTERN,
        wanted=wanted,
        budget=view.budget,
        room=view.room,
        controls=CONTROL_CONNECTIONS,
        least_spare=LEAST_SPARE,
        most_spare=MOST_SPARE,
        share=member.share,
        before=f"{before}/",
        after=f"/{after}",
    )
    return (
        f"{announce(member)}; SET lock_timeout = {LOCK_TIMEOUT}; SELECT pg_catalog.pg_advisory_xact_lock({LOCK}); {sql}"
    )


def _array(users: Iterable[str]) -> str:
    return f"ARRAY[{', '.join(map(literal, users))}]"


def parse_look(row: list[bytes | None], percent: int) -> View:
    """What the answer to `look` means.

    Parameters: `percent`, the setting `max_connections_percent`. Raises: ValueError for an answer that is none.
    """
    if len(row) != 6:
        raise ValueError("an answer of another shape")
    max_connections, superuser, reserved, connections, ours = (int(value or b"") for value in row[:5])
    members = [member for name in (row[5] or b"").decode().split() if (member := parse_name(name)) is not None]
    return View(
        budget=planner.budget(max_connections=max_connections, reserved=superuser + reserved, percent=percent),
        room=max_connections - superuser - reserved,
        connections=connections,
        ours=ours,
        members=members,
    )
