"""`tidegate-proxy import-pgbouncer`: our file from PgBouncer's."""

from __future__ import annotations

import os
from pathlib import Path

import click

from tidegate_proxy.settings import ConfigurationError
from tidegate_proxy.settings.errors import one_line
from tidegate_proxy.settings.pgbouncer import as_toml, translate


@click.command("import-pgbouncer")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write, which only you can read then.")
def import_pgbouncer(file: Path, output: Path | None) -> None:
    """Write our configuration from PgBouncer's pgbouncer.ini, with the passwords of its list of users.

    What PgBouncer does where its file says nothing is written out where it differs from our defaults. Remove it to get
    ours. Warnings go to standard error, and stand as comments in the file.
    """
    try:
        data, warnings = translate(file)
    except ConfigurationError as error:
        click.echo(f"Error: {error}", err=True)
        raise click.exceptions.Exit(2) from None
    text = as_toml(data, map(one_line, warnings))
    for warning in warnings:
        click.echo(f"Warning: {one_line(warning)}", err=True)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        # It holds passwords.
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise click.ClickException(f"{output}: is there already: choose another name, or remove it") from None
    except OSError as error:
        raise click.ClickException(f"{output}: cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
