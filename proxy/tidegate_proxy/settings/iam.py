"""The table `iam`: clients that log in with AWS credentials."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from tidegate_proxy.identity.iam.policy import PrincipalPattern
from tidegate_proxy.settings.regions import Region, UnknownRegionError, nearest_region, region
from tidegate_proxy.settings.values import Model, Name, Seconds, is_loopback


def _principal(text: str) -> str:
    PrincipalPattern.parse(text)
    return text


def _identifier(text: str) -> str:
    if not 0 < len(text) <= 255 or not all("!" <= character <= "~" for character in text):
        raise ValueError("must be 1 to 255 visible ASCII characters without spaces, for example shop-proxy")
    return text


def _endpoint(text: str) -> str:
    try:
        parts = urlsplit(text)
        plain = parts.scheme == "http" and is_loopback(parts.hostname or "")
        right = (parts.scheme == "https" or plain) and parts.hostname and parts.path in ("", "/") and parts.port != 0
    except ValueError:
        right = False
    if not right or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(
            "must be an https URL of a host alone (http only on loopback), for example "
            "https://vpce-0123456789abcdef0-abcdefgh.sts.eu-west-1.vpce.amazonaws.com"
        )
    return f"{parts.scheme}://{parts.netloc}"


class IamRule(Model, frozen=True):
    """One rule: an AWS principal, and the database users whom it may log in as."""

    principal: Annotated[str, AfterValidator(_principal)]
    """ARN of the principal: `arn:aws:iam::123456789012:role/shop`, a user or `root`; or a role's sessions by name,
    `arn:aws:sts::123456789012:assumed-role/ROLE/SESSION`, or a federated user. In the name, `*` stands for any
    characters but `/`, and `?` for one; partition and account are always exact. A role's path is not compared, since
    STS does not tell it: names of roles are unique in an account without it."""

    users: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Database users whom this principal may log in as, each by name."""


class IamSettings(Model, frozen=True):
    """Clients that log in with AWS credentials. Whom a rule or `rds_users` names can log in by a token only, inside TLS
    only: a password in `users` is then what the proxy itself logs in to the server with."""

    region: str | None = None
    """AWS region whose STS is asked about tokens, and which clients must sign them for. Needed for `rules`. Example:
    `"eu-west-1"`."""

    proxy_id: Annotated[str, AfterValidator(_identifier)] | None = None
    """The proxy's identifier, which tokens are bound to: one that was made for another proxy is refused. Clients use
    the name that they connect to unless they are told otherwise (`TIDEGATE_PROXY_ID`). Needed for `rules`. Example:
    `"shop-proxy"`."""

    sts_endpoint: Annotated[str, AfterValidator(_endpoint)] | None = None
    """URL of STS, for a VPC endpoint with a name of its own. Default: the region's own."""

    sts_connections: Annotated[int, Field(strict=True, ge=1, le=1000)] = 32
    """Most requests to STS at a time. Where more tokens wait, the addresses that they come from take turns."""

    sts_timeout: Seconds = 5
    """How long one request to STS may take. A failed one is repeated as long as `client_login_timeout` allows."""

    rules: tuple[IamRule, ...] = ()
    """Who may log in as whom, with a token for the proxy. As `[[iam.rules]]` in the file; as a variable, a list in
    JSON."""

    rds_users: tuple[Name, ...] = ()
    """Database users who may log in with a token for the database (`aws rds generate-db-auth-token`), which is tried on
    the server. Their databases must be configured with the name and port that the token is for. With it, `tls` of all
    databases must be `verify-ca` or `verify-full`, but for servers on loopback. As a variable, names separated by
    commas."""

    rds_logins_per_second: Annotated[int, Field(strict=True, ge=1, le=200)] = 100
    """Most tokens a second that are tried on servers; further clients wait, and the addresses that they come from take
    turns. AWS advises to stay below 200 new
    connections with IAM authentication a second."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.rules and not self.rds_users:
            raise ValueError("has neither rules nor rds_users: name somebody who may log in")
        if self.rules:
            for name, example in (("region", "eu-west-1"), ("proxy_id", "shop-proxy")):
                if getattr(self, name) is None:
                    raise ValueError(f'has rules but no {name}: add it, for example {name} = "{example}"')
        if self.region is not None:
            self._check_region(self.region)
        return self

    def _check_region(self, name: str) -> None:
        try:
            found = region(name)
        except UnknownRegionError as error:
            raise ValueError(f'has the region "{name}", which {error}') from None
        if not found.known and self.sts_endpoint is None:
            raise ValueError(
                f'has the region "{name}", which botocore does not know: {nearest_region(name)} If it is newer'
                " than the installed botocore, name its endpoint in sts_endpoint"
            )
        for rule in self.rules:
            partition = PrincipalPattern.parse(rule.principal).partition
            if partition != found.partition:
                raise ValueError(
                    f'has a rule for "{rule.principal}", but the region {name} is in the partition {found.partition}:'
                    f" its ARNs begin with arn:{found.partition}:"
                )

    @property
    def users(self) -> frozenset[str]:
        """Every database user who logs in by a token."""
        return frozenset(self.rds_users).union(*(rule.users for rule in self.rules))

    @property
    def sts_region(self) -> Region:
        """The region, where there are rules."""
        assert self.region is not None
        return region(self.region)
