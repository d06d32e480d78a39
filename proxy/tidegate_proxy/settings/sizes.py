"""Settings of how many and how long: in general, of one database, of one user. Durations are seconds.

Their names are PgBouncer's and RDS Proxy's. Where those have two words for one thing, either may be given, see ALIASES.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from tidegate_proxy.settings.values import Model, PoolSize, Seconds, SecondsOrZero, Statements

Count = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
Percent = Annotated[int, Field(strict=True, ge=1, le=100)]
PercentOrZero = Annotated[int, Field(strict=True, ge=0, le=100)]

ALIASES = {
    "query_wait_timeout": "connection_borrow_timeout",
    "client_idle_timeout": "idle_client_timeout",
    "connect_query": "init_query",
}
"""Another word for a setting, in general and of a database or a user that has it."""


class Sizes(Model, frozen=True):
    """How many connections there may be."""

    default_pool_size: PoolSize = 20
    """Most server connections per pool. There is one pool per pair of database and user. The default is PgBouncer's:
    a database of up to eight vCPUs is busy with as many, see `tidegate-proxy size`."""

    min_pool_size: Count = 0
    """A pool with clients keeps at least so many server connections, never more than its size. By default none:
    connections that nobody uses cost the database memory."""

    reserve_pool_size: Count = 5
    """So many more for a pool whose clients have waited for `reserve_pool_timeout`: a few long transactions shall not
    hold up all the short ones. They are closed again when they are free and nobody waits. 0 for none."""

    reserve_pool_timeout: SecondsOrZero = 3
    """How long a client must have waited before the reserve is used: longer than a queue lasts that only a burst has
    caused, and shorter than a function's usual timeout. 0 is never."""

    max_client_conn: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 10_000
    """Most client connections at a time. Each takes one open file; where the process may not open that
    many, an explicit value is an error and the default is lowered with a warning. The default is ten times the
    concurrency of a new AWS account's functions (1,000)."""

    max_client_conn_per_source: Count = 0
    """Most client connections from one IP address; 0 for no limit, since many functions may come from one address of a
    NAT gateway. Clients of a Unix socket are not counted."""

    max_db_client_connections: Count = 0
    """Most client connections per database; 0 for no limit."""

    max_user_client_connections: Count = 0
    """Most client connections per user, whatever the database; 0 for no limit."""

    max_waiting_clients: Count = 0
    """Most clients of one pool that wait for a server connection. A transaction beyond it is refused at once (SQLSTATE
    53300), and the client stays connected. 0 for no limit: then as many may wait as may connect."""

    max_db_connections: Count = 0
    """Most server connections per database, as clients name it, whatever the user; 0 for no limit. Pools that share
    such a limit take turns: an idle connection of one is closed when another needs its place."""

    max_user_connections: Count = 0
    """Most server connections per user, whatever the database; 0 for no limit. Shared as `max_db_connections`."""

    max_prepared_statements: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 200
    """Statements of clients that stay prepared on one server connection, however many clients share it; beyond that,
    those that were not used for longest are closed between transactions, and prepared again when they are needed. Each
    takes the server memory for its plan. The default is PgBouncer's."""

    reuse_unnamed_statements_after: Count = 0
    """How often a statement (SELECT, INSERT, UPDATE, DELETE, MERGE, VALUES, WITH) comes to a pool without a name before
    the proxy prepares it by a name of its own: from then on the server neither parses nor analyses it again. Drivers
    that prepare each query anew, by the extended protocol, gain what prepared statements would bring them, with what
    else is true of those: PostgreSQL may choose a generic plan after five executions (`plan_cache_mode`); a change of
    the schema that the proxy does not see, or sees only later in the same pipeline, may fail a query once with `cached
    plan must not change result type`; and constants that depend on parameters which a function has set are those of
    whoever prepared it (`session_check`). Texts with `now`, `today`, `tomorrow`, `yesterday` or `allballs` that are no
    calls of functions stay without a name, as does everything in session mode. They count towards
    `max_prepared_statements`. 0 for never."""

    max_connections_percent: Percent = 90
    """How much of a PostgreSQL server's `max_connections` the proxy may use, over all pools. `max_connections` is read
    from the server when connections are opened; what it reserves for superusers is left alone in any case. By default
    a tenth is left to migrations, monitoring and people."""

    max_idle_connections_percent: PercentOrZero | None = None
    """How much of `max_connections` may be server connections that have been idle for half of `server_idle_timeout`
    (with its default, RDS Proxy's five minutes); those beyond it are closed, the longest idle first. Default: half of
    `max_connections_percent`, as RDS Proxy has it."""

    @model_validator(mode="after")
    def _no_more_idle_than_all(self) -> Self:
        if (self.max_idle_connections_percent or 0) > self.max_connections_percent:
            raise ValueError(
                f"max_idle_connections_percent ({self.max_idle_connections_percent}) is above max_connections_percent "
                f"({self.max_connections_percent}): lower it, or leave it out"
            )
        return self


class Timeouts(Model, frozen=True):
    """How long things may take."""

    connection_borrow_timeout: Seconds = 120
    """How long a transaction may wait for a server connection. After that the client gets an error
    (SQLSTATE 53300) and stays connected. The default is RDS Proxy's and PgBouncer's."""

    query_timeout: SecondsOrZero = 0
    """How long a query may take; then it is cancelled (SQLSTATE 57014). 0 for no limit: PostgreSQL's own
    `statement_timeout` is the better place for one."""

    transaction_timeout: SecondsOrZero = 0
    """How long a transaction may take; then it is cancelled and rolled back, and its client's connection is closed
    (SQLSTATE 25P04). 0 for no limit."""

    idle_transaction_timeout: SecondsOrZero = 60
    """How long a client may hold a transaction open without sending anything; then its connection is closed (SQLSTATE
    25P03). 0 is for ever. By default a minute: a function that was frozen or has vanished in the midst of one keeps a
    server connection, and locks, from all others."""

    idle_client_timeout: SecondsOrZero = 1800
    """A client that has sent nothing for this long, and has no transaction open, is disconnected (SQLSTATE 57P05);
    0 is never. The default is RDS Proxy's, and longer than Lambda keeps an unused execution environment."""

    client_lifetime: SecondsOrZero = 86_400
    """A client connection older than this is closed after its transaction (SQLSTATE 57P01); 0 is never. The default
    is RDS Proxy's 24 hours: what nobody ever closes shall not outlive every change of passwords and certificates."""

    client_login_timeout: Seconds = 60
    """How long a client may take from connecting to having proved who it is. A first server connection may then
    be waited for; that is limited by `connection_borrow_timeout`."""

    server_connect_timeout: Seconds = 15
    """How long connecting and logging in to a server may take, `init_query` included. The default is PgBouncer's, and
    leaves time for a lost packet to be sent anew three times."""

    server_login_retry: Seconds = 5
    """The longest pause between two attempts to connect to a server that can't be reached; pauses begin at a few
    milliseconds and double. Short by default, because a failover must be noticed."""

    server_idle_timeout: SecondsOrZero = 600
    """A server connection unused for this long is closed; 0 is never. The default is PgBouncer's: longer than the
    pauses of a steady load, and a database that is left alone is free of connections soon."""

    server_lifetime: SecondsOrZero = 3600
    """A server connection older than this is closed when it is next free; 0 is never. By default an hour, so that
    memory which PostgreSQL's processes have gathered comes back."""

    server_reset_timeout: SecondsOrZero = 5
    """How long a server connection that a vanished client left behind may take to be cleaned; then it is
    closed."""

    left_writer_timeout: SecondsOrZero = 30
    """How long transactions, and clients pinned to their server connection, may go on at a server that took writes when
    another one was found to be the writer; then their connection there ends (SQLSTATE 08006), since what they write
    may be lost. 0 is for as long as they like."""

    client_tcp_user_timeout: SecondsOrZero = 900
    """How long a client may acknowledge nothing before its connection counts as lost (TCP_USER_TIMEOUT, with keepalive
    probes three times as often, so that a Network Load Balancer, which forgets connections after 350 s without a
    packet, forgets none); 0 leaves that to the system. Lambda freezes a function between two invocations, and what is
    frozen acknowledges nothing: a short time would disconnect warm functions."""

    drain_delay: SecondsOrZero = 0
    """How long after SIGTERM new clients are still taken, while `/readyz` already says that the proxy is not ready: as
    long as a load balancer takes to notice. SIGINT does not wait."""

    drain_timeout: SecondsOrZero = 110
    """How long transactions may take to finish after SIGTERM; then their connections are closed (SQLSTATE
    57P01)."""

    init_query: Statements | None = None
    """SQL that is run on each new server connection before any client gets it, typically SET statements; also again
    when the proxy resets a session. If it fails, so does the connection. A client that runs RESET ALL or DISCARD ALL
    itself undoes it for that server connection: where that matters, use ALTER ROLE ... SET. RDS Proxy's initialization
    query."""


class DatabaseSizes(Model, frozen=True):
    """The same of one database."""

    pool_size: PoolSize | None = None
    """Most server connections per user for this database. Default: the general `default_pool_size`; a user's own comes
    first."""

    min_pool_size: Count | None = None
    """Default: the general `min_pool_size`."""

    reserve_pool_size: Count | None = None
    """Default: the general `reserve_pool_size`; a user's own comes first."""

    max_db_connections: Count | None = None
    """Most server connections for this database. Default: the general `max_db_connections`."""

    max_db_client_connections: Count | None = None
    """Most client connections for this database. Default: the general `max_db_client_connections`."""

    connection_borrow_timeout: Seconds | None = None
    """Default: the general `connection_borrow_timeout`; a user's own comes first."""

    server_lifetime: SecondsOrZero | None = None
    """Default: the general `server_lifetime`."""

    init_query: Statements | None = None
    """Default: the general `init_query`."""


class UserSizes(Model, frozen=True):
    """The same of one user."""

    pool_size: PoolSize | None = None
    """Most server connections per database for this user. Default: the database's `pool_size`, else the general
    `default_pool_size`."""

    reserve_pool_size: Count | None = None
    """Default: the database's `reserve_pool_size`, else the general one."""

    max_user_connections: Count | None = None
    """Most server connections for this user. Default: the general `max_user_connections`."""

    max_user_client_connections: Count | None = None
    """Most client connections of this user. Default: the general `max_user_client_connections`."""

    connection_borrow_timeout: Seconds | None = None
    """Default: the database's `connection_borrow_timeout`, else the general one."""

    query_timeout: SecondsOrZero | None = None
    """Default: the general `query_timeout`."""

    transaction_timeout: SecondsOrZero | None = None
    """Default: the general `transaction_timeout`."""

    idle_transaction_timeout: SecondsOrZero | None = None
    """Default: the general `idle_transaction_timeout`."""

    idle_client_timeout: SecondsOrZero | None = None
    """Default: the general `idle_client_timeout`."""
