"""Functions that use the proxy: layer, network, environment and login in one call, or for all of a stack's at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import jsii
from aws_cdk import IAspect
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import IConstruct

from tidegate_infra.acknowledge import acknowledge
from tidegate_infra.errors import DeploymentError
from tidegate_infra.layer import TidegateLayer
from tidegate_infra.proxy import TidegateProxy
from tidegate_infra.roles import allow_secret
from tidegate_infra.security_groups import LISTEN_PORT

VPC_ACCESS = "service-role/AWSLambdaVPCAccessExecutionRole"


@dataclass(frozen=True)
class Connection:
    """How functions connect.

    Fields: `proxy`; `layer`; `database`, its name, and `db_user`; `root_certificates`, what verifies the proxy's
    certificate: a file in the function, `system` for a public one, None where the proxy has none and there is no TLS;
    `by_password`, log in with the user's secret even where the proxy has `iam_auth`; `environment`, further variables
    of the layer.
    """

    proxy: TidegateProxy
    layer: TidegateLayer
    database: str
    db_user: str
    root_certificates: str | None = "system"
    by_password: bool = False
    environment: dict[str, str] = field(default_factory=dict)


def attach_function(function: lambda_.Function, connection: Connection) -> None:
    """Have `function` reach the database through the proxy.

    It gets the layer, a place in the proxy's VPC and the security group of its clients (or, where it has a VPC already,
    a rule for its own group), the layer's environment, and the right to log in: by IAM if the proxy has `iam_auth`,
    else with the user's secret.

    Raises: DeploymentError for a function of another Python or architecture than the layer's, and for a user that has
    neither.
    """
    proxy = connection.proxy
    _check_fit(function, connection.layer)
    function.add_layers(connection.layer.layer_version)
    _join_network(function, proxy)
    variables = {
        "TIDEGATE_HOST": proxy.endpoint,
        "TIDEGATE_PORT": str(LISTEN_PORT),
        "TIDEGATE_DBNAME": connection.database,
        "TIDEGATE_USER": connection.db_user,
        **_verification(connection),
        **_login(function, connection),
        **connection.environment,
    }
    for name, value in variables.items():
        function.add_environment(name, value)


def _verification(connection: Connection) -> dict[str, str]:
    roots = connection.root_certificates
    return {"TIDEGATE_SSLMODE": "disable"} if roots is None else {"TIDEGATE_SSLROOTCERT": roots}


def _check_fit(function: lambda_.Function, layer: TidegateLayer) -> None:
    runtime = function.runtime.name
    if runtime != layer.runtime.name:
        raise DeploymentError(
            f"{function.node.path}: runs on {runtime}, but the layer is for {layer.runtime.name}: change the "
            "function's runtime or the layer's python"
        )
    if function.architecture.name != layer.architecture.name:
        raise DeploymentError(
            f"{function.node.path}: runs on {function.architecture.name}, but the layer is for "
            f"{layer.architecture.name}: change one of them"
        )


def _join_network(function: lambda_.Function, proxy: TidegateProxy) -> None:
    resource = function.node.default_child
    assert isinstance(resource, lambda_.CfnFunction)
    if resource.vpc_config is not None:
        function.connections.allow_to_default_port(proxy, "PostgreSQL through the proxy")
        return
    resource.vpc_config = lambda_.CfnFunction.VpcConfigProperty(
        subnet_ids=[subnet.subnet_id for subnet in proxy.subnets],
        security_group_ids=[proxy.clients.security_group_id],
    )
    if function.role is not None:
        function.role.add_managed_policy(iam.ManagedPolicy.from_aws_managed_policy_name(VPC_ACCESS))
        acknowledge(
            function.role,
            f"AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/{VPC_ACCESS}]",
            "Lambda's own policy for functions in a VPC: network interfaces cannot be named beforehand",
        )


def _login(function: lambda_.Function, connection: Connection) -> dict[str, str]:
    proxy, user = connection.proxy, connection.db_user
    if proxy.iam_auth and not connection.by_password:
        proxy.grant_connect(function, user)
        return {"TIDEGATE_AUTH": "tidegate-iam", "TIDEGATE_PROXY_ID": proxy.db_proxy_name}
    secret = proxy.secrets.get(user)
    if secret is None:
        raise DeploymentError(
            f"db_user: the proxy has no secret for {user!r} and no iam_auth: give it secrets={{{user!r}: secret}}, or "
            "iam_auth=True"
        )
    allow_secret(function, secret)
    return {"TIDEGATE_AUTH": "secret", "TIDEGATE_SECRET_ARN": secret.secret_arn}


@jsii.implements(IAspect)
class TidegateFunctionAspect:
    """Attaches every function of a scope that runs on the layer's Python and architecture.

    Example: `Aspects.of(stack).add(TidegateFunctionAspect(connection))`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def visit(self, node: IConstruct) -> None:
        """Called by CDK for each construct."""
        layer = self._connection.layer
        if not isinstance(node, lambda_.Function):
            return
        if node.runtime.name == layer.runtime.name and node.architecture.name == layer.architecture.name:
            attach_function(node, self._connection)
