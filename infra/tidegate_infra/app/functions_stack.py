"""The stack with the layer and the sample functions."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from aws_cdk import CfnOutput, Duration, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from tidegate_infra.acknowledge import acknowledge
from tidegate_infra.app.database import Database
from tidegate_infra.app.parameters import OWNER, Parameters
from tidegate_infra.app.serving import RETENTION, Serving
from tidegate_infra.functions import Connection, attach_function
from tidegate_infra.image import CHECKOUT
from tidegate_infra.layer import ZIPS, TidegateLayer

SETUP = Path(__file__).parent / "setup_function"
COUNTER = CHECKOUT / "samples" / "counter"


class FunctionsStack(Stack):
    """Attributes: `counter`, the sample function; `setup`, which prepares a database made by this app, else None."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        parameters: Parameters,
        database: Database,
        serving: Serving,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, description="Tidegate: layer and sample functions", **kwargs)
        self._parameters = parameters
        self._layer = TidegateLayer(
            self,
            "Layer",
            python=parameters.python,
            architecture=parameters.architecture,
            zips=parameters.layer_folder or ZIPS,
        )
        self._authority = self._authority_layer()
        self._proxy = serving.proxy
        self.counter = self._function("Counter", COUNTER, parameters.database_user)
        self.setup: lambda_.Function | None = None
        if database.owner is not None:
            user = database.secrets[parameters.database_user]
            self.setup = self._function("Setup", SETUP, OWNER, by_password=True)
            self.setup.add_environment("USER_SECRET_ARN", user.secret_arn)
            user.grant_read(self.setup)
            CfnOutput(self, "SetupFunction", value=self.setup.function_name, description="Invoke it once, first")
        CfnOutput(self, "CounterFunction", value=self.counter.function_name)

    def _function(self, name: str, folder: Path, user: str, *, by_password: bool = False) -> lambda_.Function:
        group = logs.LogGroup(
            self,
            f"{name}Logs",
            retention=RETENTION[self._parameters.log_retention_days],
            removal_policy=RemovalPolicy.DESTROY,
        )
        role = iam.Role(self, f"{name}Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        group.grant_write(role)
        function = lambda_.Function(
            self,
            name,
            role=role,
            runtime=self._layer.runtime,
            architecture=self._layer.architecture,
            handler="function.handler",
            code=lambda_.Code.from_asset(str(folder), exclude=["__pycache__"]),
            timeout=Duration.seconds(30),
            memory_size=512,
            log_group=group,
            layers=[self._authority] if self._authority else [],
        )
        acknowledge(function, "AwsSolutions-L1", "The layer is built for one Python, and the function runs on the same")
        attach_function(
            function,
            Connection(
                proxy=self._proxy,
                layer=self._layer,
                database=self._parameters.database_name,
                db_user=user,
                root_certificates=self._roots(),
                by_password=by_password,
            ),
        )
        return function

    def _roots(self) -> str | None:
        if self._parameters.certificate_secret is None:
            return None
        file = self._parameters.ca_certificate
        return f"/opt/{file.name}" if file else "system"

    def _authority_layer(self) -> lambda_.LayerVersion | None:
        file = self._parameters.ca_certificate
        if file is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            # A layer keeps the mode of its files, and functions run as a user of Lambda's.
            copy = Path(folder) / file.name
            copy.write_bytes(file.read_bytes())
            copy.chmod(0o644)
            return lambda_.LayerVersion(
                self,
                "Authority",
                code=lambda_.Code.from_asset(folder),
                description="The authority of the proxy's certificate",
            )
