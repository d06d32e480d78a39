"""The app's stacks."""

from __future__ import annotations

import aws_cdk as cdk

from tidegate_infra.app.database import Database
from tidegate_infra.app.functions_stack import FunctionsStack
from tidegate_infra.app.network import Network
from tidegate_infra.app.parameters import Parameters, read_parameters
from tidegate_infra.app.serving import Serving
from tidegate_infra.load_test import LoadTestStack

OWN = ("environment", "environments")
"""Context keys that are the app's, but no parameters."""


def build(app: cdk.App, parameters: Parameters) -> None:
    """Make every stack that these parameters ask for."""
    name = parameters.name
    env = cdk.Environment(account=parameters.account, region=parameters.region)

    def stack(kind: str) -> cdk.Stack:
        return cdk.Stack(app, f"{name}-{kind}", description=f"Tidegate: {kind}", env=env)

    proxy = stack("proxy")
    # What exists already is only referred to: it makes no stack.
    network = Network(proxy if parameters.vpc_id else stack("network"), "Network", parameters)
    existing = parameters.database == "existing"
    database = Database(proxy if existing else stack("database"), "Database", parameters, network)
    serving = Serving(proxy, "Serving", parameters, network, database)
    cdk.Tags.of(app).add("tidegate", name)
    if not parameters.functions:
        return
    functions = FunctionsStack(app, f"{name}-functions", parameters, database, serving, env=env)
    if parameters.load_test:
        LoadTestStack(app, f"{name}-load", serving.proxy, functions.counter, env=env)


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
