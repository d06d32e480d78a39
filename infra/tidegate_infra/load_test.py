"""A task that sends the spike of invocations from inside the VPC, when it is started by hand."""

from __future__ import annotations

from typing import Any

from aws_cdk import CfnOutput, RemovalPolicy, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from tidegate_infra.acknowledge import acknowledge
from tidegate_infra.image import image_asset
from tidegate_infra.proxy import TidegateProxy
from tidegate_infra.security_groups import HTTPS
from tidegate_infra.task import ARCHITECTURES

DOCKERFILE = "loadtests/Dockerfile"


class LoadTestRunner(Construct):
    """The task definition of Locust's spike, on the proxy's cluster.

    Attributes: `task`, its definition; `security_group`; `command`, the AWS command line that starts it.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        proxy: TidegateProxy,
        function: lambda_.IFunction,
        peak: int = 500,
        image: ecs.ContainerImage | None = None,
    ) -> None:
        """Parameters: `function`, which is invoked; `peak`, invocations in flight."""
        super().__init__(scope, construct_id)
        group = logs.LogGroup(self, "Logs", retention=logs.RetentionDays.ONE_WEEK, removal_policy=RemovalPolicy.DESTROY)
        principal = iam.ServicePrincipal("ecs-tasks.amazonaws.com")
        role = iam.Role(self, "Role", assumed_by=principal, description="The spike: invokes one function")
        role.add_to_policy(iam.PolicyStatement(actions=["lambda:InvokeFunction"], resources=[function.function_arn]))
        self.task = ecs.FargateTaskDefinition(
            self,
            "Task",
            cpu=2048,
            memory_limit_mib=4096,
            task_role=role,
            runtime_platform=ecs.RuntimePlatform(
                cpu_architecture=ARCHITECTURES[proxy.architecture],
                operating_system_family=ecs.OperatingSystemFamily.LINUX,
            ),
        )
        acknowledge(role, "AwsSolutions-IAM5[Resource::*]", "ecr:GetAuthorizationToken knows no resource but *")
        acknowledge(self.task, "AwsSolutions-IAM5[Resource::*]", "ecr:GetAuthorizationToken knows no resource but *")
        options = {
            "--target": "aws",
            "--function": function.function_name,
            "--region": Stack.of(self).region,
            "--peak": str(peak),
        }
        self.task.add_container(
            "spike",
            image=image or image_asset(self, "Image", DOCKERFILE, architecture=proxy.architecture),
            command=[part for option in options.items() for part in option],
            # Locust writes its results to a file.
            readonly_root_filesystem=False,
            logging=ecs.LogDrivers.aws_logs(stream_prefix="spike", log_group=group),
        )
        self.security_group = ec2.SecurityGroup(
            self, "Group", vpc=proxy.vpc, description="The spike", allow_all_outbound=False
        )
        self.security_group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(HTTPS), "Lambda")
        subnets = ",".join(subnet.subnet_id for subnet in proxy.subnets)
        self.command = (
            f"aws ecs run-task --launch-type FARGATE --cluster {proxy.cluster.cluster_name} "
            f"--task-definition {self.task.family} --network-configuration "
            # Unquoted, a shell would make several words of what is in braces.
            f"'awsvpcConfiguration={{subnets=[{subnets}],securityGroups=[{self.security_group.security_group_id}]}}'"
        )


class LoadTestStack(Stack):
    """The runner as a stack of its own."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        proxy: TidegateProxy,
        function: lambda_.IFunction,
        **kwargs: Any,
    ) -> None:
        super().__init__(scope, construct_id, description="Tidegate: load test", **kwargs)
        self.runner = LoadTestRunner(self, "Spike", proxy=proxy, function=function)
        CfnOutput(self, "RunCommand", value=self.runner.command, description="Starts the spike")
        CfnOutput(self, "LogStreamPrefix", value="spike")
