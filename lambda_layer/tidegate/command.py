"""The command `tidegate`: a token to log in with, for any PostgreSQL client."""

from __future__ import annotations

import argparse
import os
import sys

from . import auth
from .errors import TidegateError
from .settings import SETTINGS

_EXAMPLE = """\
example:
  PGPASSWORD=$(tidegate token shop-proxy --region eu-west-1) \\
    psql "host=db-proxy.example.com user=orders dbname=shop sslmode=verify-full"

The AWS credentials that sign it are found as the AWS SDKs find them: environment variables, then the container's
role, then (with botocore installed) profiles and the instance's role. No request is sent to make a token.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns: its exit status, 0, or 1 where a token could not be made; wrong usage exits with 2."""
    parser = argparse.ArgumentParser(prog="tidegate", description="Tidegate on the command line.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    token = commands.add_parser(
        "token",
        help="print a token with which a PostgreSQL client logs in to the Tidegate proxy",
        description="Print a token that the Tidegate proxy accepts as a password, over TLS, for at most 15 minutes.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    token.add_argument(
        "endpoint",
        nargs="?",
        default=os.environ.get("TIDEGATE_PROXY_ID"),
        help="the proxy's identifier, as its setting iam.proxy_id has it (default: $TIDEGATE_PROXY_ID)",
    )
    token.add_argument(
        "--region",
        default=next(
            (os.environ[name] for name in ("TIDEGATE_REGION", "AWS_REGION", "AWS_DEFAULT_REGION") if os.getenv(name)),
            None,
        ),
        help="AWS region, as the proxy's setting iam.region has it (default: $TIDEGATE_REGION, $AWS_REGION or"
        " $AWS_DEFAULT_REGION)",
    )
    token.add_argument(
        "--expires",
        type=int,
        default=auth.TOKEN_LIFE,
        metavar="SECONDS",
        help=f"how long it is good for, 1 to {auth.TOKEN_LIFE} (default: %(default)s)",
    )
    given = parser.parse_args(arguments)
    if not given.endpoint:
        token.error("name the proxy's identifier, for example shop-proxy, or set TIDEGATE_PROXY_ID")
    if not given.region:
        token.error("name the region, for example --region eu-west-1, or set AWS_REGION")
    try:
        next(setting for setting in SETTINGS if setting.name == "region").parse(given.region)
    except ValueError as error:
        token.error(f'the region "{given.region}" {error}, for example eu-west-1')
    try:
        made = auth.generate_token(given.endpoint, given.region, expires=given.expires)
    except TidegateError as error:
        print(f"tidegate: {error}", file=sys.stderr)  # noqa: T201 (a command's answer)
        return 1
    print(made)  # noqa: T201 (a command's answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
