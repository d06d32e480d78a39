"""`tidegate-proxy size`: how many server connections to begin with."""

from __future__ import annotations

from dataclasses import dataclass

import click


@dataclass(frozen=True)
class Sizing:
    """Server connections for one database server: a beginning, and the range in which to look for the best number."""

    begin: int
    low: int
    high: int
    per_pool: int


def sizing(*, vcpus: int, disks: int, pools: int, proxies: int) -> Sizing:
    """The rules in common use.

    - 2 x cores + disks: so many transactions keep every core and every disk busy (the PostgreSQL wiki, "Number Of
      Database Connections", whose rule the documentation of HikariCP repeats).
    - 2 to 4 x cores: the range of advice for transaction pooling, the upper end for transactions that wait a lot
      between their statements.

    Parameters: `vcpus` of the database server; `disks`, which work at the same time: 1 for an SSD or a network volume;
    `pools`, pairs of database and user that are busy at a time; `proxies`, which share the server.
    """
    begin = 2 * vcpus + disks
    return Sizing(begin, 2 * vcpus, 4 * vcpus, max(1, begin // (pools * proxies)))


@click.command()
@click.option("--vcpus", type=click.IntRange(1, 1024), required=True, help="vCPUs of the database server.")
@click.option(
    "--disks",
    type=click.IntRange(0, 1024),
    default=1,
    show_default=True,
    help="Disks that work at the same time: 1 for an SSD, EBS or Aurora; 0 if all data is in memory.",
)
@click.option("--pools", type=click.IntRange(1), default=1, show_default=True, help="Busy pairs of database and user.")
@click.option("--proxies", type=click.IntRange(1), default=1, show_default=True, help="Proxies for this server.")
@click.option("--max-connections", type=click.IntRange(1), help="The server's max_connections, to check against.")
def size(vcpus: int, disks: int, pools: int, proxies: int, max_connections: int | None) -> None:
    """Say how many server connections to begin with, and why.

    More connections than a database can work on make each of them slower, and all together no faster: what is beyond
    waits better in the proxy, where it costs next to nothing.
    """
    found = sizing(vcpus=vcpus, disks=disks, pools=pools, proxies=proxies)
    click.echo(f"Begin with {found.begin} server connections in all: 2 x {vcpus} vCPUs + {disks} disks.")
    click.echo("  A core has something to do while another transaction waits for the client or the disk.")
    click.echo(f"Then measure between {found.low} and {found.high}: 2 to 4 x {vcpus} vCPUs.")
    click.echo("  The upper end is for transactions that wait between statements, the lower for those that compute.")
    click.echo("")
    click.echo(f"default_pool_size = {found.per_pool}  # {found.begin} / ({pools} pools x {proxies} proxies)")
    click.echo(f"reserve_pool_size = {max(1, found.per_pool // 4)}  # for those who have waited for 3 s")
    most = (found.per_pool + max(1, found.per_pool // 4)) * pools * proxies
    if max_connections is not None and most > max_connections * 0.9:
        click.echo(
            f"Warning: that is up to {most} of max_connections = {max_connections}, which leaves less than a tenth for "
            "everybody else: raise it, or take less",
            err=True,
        )
