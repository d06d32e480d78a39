"""The app's parameters, by environment, from CDK's context: checked as a whole before anything is made of them.

`cdk.json` has a table `environments`; `-c environment=NAME` chooses one, `-c KEY=VALUE` sets one parameter. Each
field's docstring is its documentation (`python -m tidegate_infra.app.reference` prints them).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tidegate_infra.endpoint import EndpointType, check_name
from tidegate_infra.errors import DeploymentError

ROLE = r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+"
KEY = r"^arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[\w-]+$"
DEFAULT_ENVIRONMENT = "try"

OWNER = "postgres"
"""Of a database made here."""


def _listed(value: Any) -> Any:
    """-c gives texts: names separated by commas are a list."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class Parameters(BaseModel):
    """Everything that the app can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Annotated[str, Field(pattern=r"^[a-z](?:-?[a-z0-9])*$", max_length=40)] = "tidegate"
    """Begins the names of all stacks; the proxy's own name."""

    account: Annotated[str, Field(pattern=r"^\d{12}$")] | None = None
    """AWS account. Default: that of the credentials. Needed to look up a VPC."""

    region: str | None = None
    """AWS region. Default: that of the credentials. Needed to look up a VPC."""

    vpc_id: Annotated[str, Field(pattern=r"^vpc-[0-9a-f]+$")] | None = None
    """An existing VPC. Default: a new one."""

    private_subnet_ids: Names = ()
    """The VPC's private subnets that the proxy may use, at least two; that they are private is taken at your word.
    Default: they are looked up, which needs `account` and `region`: those with a way out, else the isolated ones."""

    availability_zones: Names = ()
    """The zones of `private_subnet_ids`, in the same order."""

    vpc_cidr: str = "10.42.0.0/16"
    """Addresses of a new VPC."""

    nat_gateways: Annotated[int, Field(ge=0, le=3)] = 1
    """NAT gateways of a new VPC; 0 has VPC endpoints for the AWS services that the proxy needs in their place."""

    database: Literal["aurora", "rds", "existing"] = "aurora"
    """`aurora` (Serverless v2) or `rds` (one db.t4g.micro) makes a database for trying it out; `existing` takes
    yours."""

    database_host: str | None = None
    """Endpoint of the existing database."""

    database_port: Annotated[int, Field(ge=1, le=65_535)] = 5432
    """TCP port of the existing database."""

    database_security_group: Annotated[str, Field(pattern=r"^sg-[0-9a-f]+$")] | None = None
    """Security group of the existing database: it gets a rule that lets the proxy in."""

    database_secret: str | None = None
    """Name or ARN of the secret with the password of `database_user`, in the shape that RDS gives it. Default for an
    existing database: none, the proxy logs in by IAM."""

    database_secret_key: Annotated[str, Field(pattern=KEY)] | None = None
    """ARN of the KMS key of your own that `database_secret` is encrypted with: the proxy may then decrypt with it, if
    the key's policy leaves that to IAM. Default: Secrets Manager's own key, which needs no permission."""

    database_resource_id: Annotated[str, Field(pattern=r"^(db|cluster)-[A-Z0-9]+$")] | None = None
    """RDS's name for the existing database, which permission to log in by IAM is given for."""

    database_max_connections: Annotated[int, Field(ge=1, le=262_143)] | None = None
    """`max_connections` of the existing database, to check sizes against."""

    database_name: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")] = "app"
    """Name of the database that functions use."""

    database_user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")] = "app"
    """Database user that functions log in as."""

    keep_data: bool = False
    """Whether a database made here is kept, with a snapshot, when its stack is deleted."""

    client_roles: Names = ()
    """ARNs of IAM roles, of functions deployed elsewhere for example, that may log in as `database_user`."""

    certificate_secret: str | None = None
    """Name or ARN of the secret with the proxy's certificate and key. Needed unless `require_tls` is false."""

    certificate_secret_key: Annotated[str, Field(pattern=KEY)] | None = None
    """ARN of the KMS key of your own that `certificate_secret` is encrypted with, as `database_secret_key`."""

    ca_certificate: Path | None = None
    """PEM file with the authority of that certificate, which is given to the functions. Default: it is a public one."""

    domain_name: str | None = None
    """Host name of the proxy, such as `proxy.tidegate.internal`. The certificate must be for it. It gets a private zone
    for this name alone, unless there is a `hosted_zone_id`; with `endpoint_type = dns` the zone is for all that follows
    the first label, and hides every other name of that domain in the VPC. Default: the load balancer's own name, which
    no certificate can be made for beforehand."""

    hosted_zone_id: Annotated[str, Field(pattern=r"^Z[A-Z0-9]+$")] | None = None
    """Id of an existing Route 53 zone that `domain_name` is put into. Only with `endpoint_type = nlb`."""

    hosted_zone_name: str | None = None
    """Name of that zone. Default: `domain_name` without its first label."""

    endpoint_type: Literal["nlb", "dns"] = "nlb"
    """`nlb`, a load balancer; `dns`, the tasks' addresses by Cloud Map, for small budgets."""

    require_tls: bool = True
    """Whether clients must use TLS. Without it they must log in with a password."""

    architecture: Literal["arm64", "x86_64"] = "arm64"
    """Of the proxy's tasks, and of the functions."""

    cpu: Literal[256, 512, 1024, 2048, 4096] = 1024
    """Of a task, in 1/1024 vCPU; above 1024, a process for each vCPU."""

    memory: Annotated[int, Field(ge=512, le=30_720)] = 2048
    """Of a task, in MiB."""

    min_tasks: Annotated[int, Field(ge=1, le=100)] = 2
    """Tasks that always run."""

    max_tasks: Annotated[int, Field(ge=1, le=100)] = 4
    """Most tasks. However many run, together they keep within `max_connections_percent`."""

    spot: bool = False
    """Whether tasks beyond `min_tasks` run on Fargate Spot."""

    max_connections_percent: Annotated[int, Field(ge=1, le=100)] = 90
    """How much of the database's `max_connections` all tasks together may use."""

    pool_size: Annotated[int, Field(ge=1)] | None = None
    """Server connections per database and user in each process, of which a task has one per vCPU. Default:
    the proxy's, 20."""

    admin_users: Names = ()
    """Users who may use all of the admin console: `database_user`, or `postgres` of a database made here."""

    stats_users: Names = ()
    """Users, of the same ones, who may use the admin console's `SHOW` only, for monitoring."""

    log_retention_days: Literal[1, 3, 5, 7, 14, 30, 60, 90, 180, 365] = 30
    """How long logs are kept."""

    alarm_email: Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")] | None = None
    """Who gets a mail for each alarm."""

    composite_alarm: bool = False
    """Whether the alarms that hurt clients ring as one."""

    runbook_url: str = "docs/runbook"
    """Where alarms say that their pages are: the address at which your checkout's docs/runbook can be read."""

    functions: bool = True
    """Whether to deploy the sample functions: `counter`, and `setup`, which prepares a database made here."""

    python: Literal["3.12", "3.13", "3.14"] = "3.13"
    """Python of the functions, and of the layer."""

    layer_folder: Path | None = None
    """Folder with the layer's zip. Default: `dist`, where `make layer` puts it."""

    load_test: bool = False
    """Whether to deploy the task that runs the spike from inside the VPC. Needs `functions`."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for problem in (self._network(), self._database(), self._name(), self._clients(), self._console()):
            if problem:
                raise ValueError(problem)
        return self

    def _network(self) -> str | None:
        if self.private_subnet_ids and self.vpc_id is None:
            return "private_subnet_ids: needs vpc_id, the VPC that they are in"
        if self.vpc_id and not self.private_subnet_ids and not (self.account and self.region):
            return "vpc_id: to look it up, give account and region; or give private_subnet_ids and availability_zones"
        if len(self.private_subnet_ids) != len(self.availability_zones):
            return "availability_zones: give the zone of each of private_subnet_ids, in the same order"
        if self.private_subnet_ids and len(set(self.availability_zones)) < 2:
            return "private_subnet_ids: give at least two, in different availability zones"
        return None

    def _database(self) -> str | None:
        if self.database != "existing":
            if self.database_host or self.database_secret:
                return 'database_host: is for database = "existing": set that, or leave host and secret out'
            return None
        if self.database_host is None:
            return 'database_host: is missing; database = "existing" needs the endpoint of your database'
        if self.database_secret is None and self.database_resource_id is None:
            return (
                "database_secret: the database has neither a secret nor IAM: give database_secret, or "
                'database_resource_id (such as "cluster-ABCDEFGHIJKL") to log in by IAM'
            )
        if self.database_secret_key and self.database_secret is None:
            return "database_secret_key: needs database_secret, which is encrypted with it"
        if self.vpc_id is None:
            return "vpc_id: is missing; the proxy must be in a VPC that reaches your database"
        return None

    def _name(self) -> str | None:
        try:
            check_name(
                self.domain_name,
                endpoint_type=EndpointType(self.endpoint_type),
                zone_name=self.hosted_zone_name,
                with_zone=self.hosted_zone_id is not None,
                setting="hosted_zone_id",
            )
        except DeploymentError as error:
            return str(error)
        if self.hosted_zone_name is not None and self.hosted_zone_id is None:
            return "hosted_zone_name: needs hosted_zone_id, the zone's id"
        return None

    def _clients(self) -> str | None:
        if self.require_tls and self.certificate_secret is None:
            return (
                "certificate_secret: is missing; `python -m tidegate_infra.certificate` makes one; or set "
                "require_tls to false"
            )
        if self.certificate_secret_key and self.certificate_secret is None:
            return "certificate_secret_key: needs certificate_secret, which is encrypted with it"
        if self.ca_certificate is not None and not self.ca_certificate.is_file():
            return f"ca_certificate: there is no file {self.ca_certificate}"
        if not self.require_tls and self.database_secret is None and self.database == "existing":
            return "database_secret: is missing; without TLS clients cannot log in by IAM, so there must be a password"
        if self.require_tls and not self.functions and not self.client_roles:
            return "client_roles: nobody may log in: name the roles of your functions, or deploy the sample functions"
        if wrong := [arn for arn in self.client_roles if not re.fullmatch(ROLE, arn)]:
            return f"client_roles: {wrong[0]!r} is no ARN of a role, such as arn:aws:iam::123456789012:role/orders"
        if self.load_test and not self.functions:
            return "load_test: needs functions, which it invokes"
        if self.max_tasks < self.min_tasks:
            return f"max_tasks: {self.max_tasks} must not be below min_tasks, which is {self.min_tasks}"
        return None

    def _console(self) -> str | None:
        known = {self.database_user} | ({OWNER} if self.database != "existing" else set())
        for name, users in (("admin_users", self.admin_users), ("stats_users", self.stats_users)):
            if unknown := sorted(set(users) - known):
                return f"{name}: the proxy does not know {unknown[0]!r}; it knows {', '.join(sorted(known))}"
        return None


def read_parameters(environments: Mapping[str, Any], chosen: str | None, single: Mapping[str, Any]) -> Parameters:
    """The parameters of one environment.

    Parameters: `environments`, as in cdk.json; `chosen`, its name, by default `try`; `single`, what `-c` gave, which
    goes first.
    Raises: DeploymentError, one line for each thing that is wrong.
    """
    name = chosen or DEFAULT_ENVIRONMENT
    if name not in environments:
        raise DeploymentError(f"environment: there is no {name!r} in cdk.json: known are {', '.join(environments)}")
    values = {**environments[name], **{key: _typed(key, value) for key, value in single.items()}}
    try:
        return Parameters.model_validate(values)
    except ValidationError as error:
        lines = [_line(details) for details in error.errors()]
        raise DeploymentError("\n".join(f"environment {name}: {line}" for line in lines)) from None


def _typed(key: str, value: Any) -> Any:
    """`-c` gives texts: numbers and booleans are meant where the field is not a text, and nothing by an empty one."""
    field = Parameters.model_fields.get(key)
    if value == "":
        return None if field is not None and field.default is None else value
    if field is None or not isinstance(value, str) or field.annotation is str:
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, bool | int) and "str" not in str(field.annotation) else value


def _line(details: Any) -> str:
    key = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        return f"{key}: unknown parameter; known are {', '.join(Parameters.model_fields)}"
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    field = Parameters.model_fields.get(str(details["loc"][0]))
    meaning = " ".join((field.description or "").split()) if field else ""
    return f"{key}: {details['msg'][0].lower()}{details['msg'][1:]}. {meaning}"
