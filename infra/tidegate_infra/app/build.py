"""The app's stacks."""

from __future__ import annotations

import aws_cdk as cdk

from tidegate_infra.app.database import DatabaseStack
from tidegate_infra.app.functions_stack import FunctionsStack
from tidegate_infra.app.network import NetworkStack
from tidegate_infra.app.parameters import Parameters, read_parameters
from tidegate_infra.app.proxy_stack import ProxyStack
from tidegate_infra.load_test import LoadTestStack

OWN = ("environment", "environments")
"""Context keys that are the app's, but no parameters."""


def build(app: cdk.App, parameters: Parameters) -> None:
    """Make every stack that these parameters ask for."""
    name = parameters.name
    env = cdk.Environment(account=parameters.account, region=parameters.region)
    network = NetworkStack(app, f"{name}-network", parameters, env=env)
    database = DatabaseStack(app, f"{name}-database", parameters, network, env=env)
    proxy = ProxyStack(app, f"{name}-proxy", parameters, network, database, env=env)
    cdk.Tags.of(app).add("tidegate", name)
    if not parameters.functions:
        return
    functions = FunctionsStack(app, f"{name}-functions", parameters, database, proxy, env=env)
    if parameters.load_test:
        LoadTestStack(app, f"{name}-load", proxy.proxy, functions.counter, env=env)


def parameters_of(app: cdk.App) -> Parameters:
    """The parameters in the app's context. Raises: DeploymentError."""
    context = app.node.get_all_context() or {}
    single = {
        key: value
        for key, value in context.items()
        # CDK's own feature flags and its cache of look-ups have colons or slashes in their names.
        if key not in OWN and ":" not in key and "/" not in key and key != "aws-cdk"
    }
    return read_parameters(context.get("environments", {"try": {}}), context.get("environment"), single)
