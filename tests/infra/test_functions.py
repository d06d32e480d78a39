"""The layer, and functions that use it: everything in one call."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tests.infra.synthesise import prepare
from tests.infra.template import Assembly, Template, listed, statements

from tidegate_infra import node as node

import aws_cdk as cdk  # isort: skip
from aws_cdk import aws_ec2 as ec2  # isort: skip
from aws_cdk import aws_ecs as ecs  # isort: skip
from aws_cdk import aws_lambda as lambda_  # isort: skip
from aws_cdk import aws_rds as rds  # isort: skip
from aws_cdk import aws_secretsmanager as secretsmanager  # isort: skip
from tidegate_infra.errors import DeploymentError  # isort: skip
from tidegate_infra.functions import Connection, TidegateFunctionAspect, attach_function  # isort: skip
from tidegate_infra.layer import ARCHITECTURES, RUNTIMES, TidegateLayer  # isort: skip
from tidegate_infra.proxy import TidegateProxy  # isort: skip
from tidegate_infra.proxy_target import ProxyTarget  # isort: skip


@pytest.fixture
def app(tmp_path: Path) -> cdk.App:
    return cdk.App(outdir=str(tmp_path / "out"))


@pytest.fixture
def connection(app: cdk.App, tmp_path: Path) -> Connection:
    """A proxy in a stack of its own, where clients log in by IAM."""
    prepare(tmp_path)
    stack = cdk.Stack(app, "Proxy")
    vpc = ec2.Vpc(stack, "Vpc", max_azs=2)
    target = ProxyTarget.from_endpoints("db.example.com", secret=rds.DatabaseSecret(stack, "Secret", username="app"))
    proxy = TidegateProxy(
        stack,
        "Proxy",
        proxy_target=target,
        vpc=vpc,
        iam_auth=True,
        certificate=secretsmanager.Secret.from_secret_name_v2(stack, "Certificate", "certificate"),
        image=ecs.ContainerImage.from_registry("tidegate"),
        domain_name="proxy.tidegate.internal",
    )
    layer = TidegateLayer(stack, "Layer", python="3.13", architecture="arm64", zips=tmp_path)
    return Connection(proxy=proxy, layer=layer, database="shop", db_user="app")


def function(stack: cdk.Stack, name: str, **changed: object) -> lambda_.Function:
    given: dict[str, object] = {
        "runtime": lambda_.Runtime.PYTHON_3_13,
        "architecture": lambda_.Architecture.ARM_64,
        "handler": "index.handler",
        "code": lambda_.Code.from_inline("def handler(event, context): ..."),
    }
    return lambda_.Function(stack, name, **(given | changed))


def template(app: cdk.App, name: str) -> Template:
    app.synth()
    return Template(Path(app.outdir) / f"{name}.template.json")


def test_there_is_a_layer_for_every_python_and_architecture(app: cdk.App, tmp_path: Path) -> None:
    prepare(tmp_path)
    stack = cdk.Stack(app, "Layers")
    for python in RUNTIMES:
        for architecture in ARCHITECTURES:
            TidegateLayer(
                stack, f"Layer{python}{architecture}", python=python, architecture=architecture, zips=tmp_path
            )
    found = template(app, "Layers").of_type("AWS::Lambda::LayerVersion").values()
    assert {(one["CompatibleRuntimes"][0], one["CompatibleArchitectures"][0]) for one in found} == {
        (f"python{python}", architecture) for python in ("3.12", "3.13", "3.14") for architecture in ("arm64", "x86_64")
    }


def test_one_call_gives_layer_network_environment_and_login(app: cdk.App, connection: Connection) -> None:
    # A stack of its own: neither may need the other in a circle.
    stack = cdk.Stack(app, "Functions")
    attach_function(function(stack, "Orders"), connection)
    functions = template(app, "Functions")
    found = functions.one("AWS::Lambda::Function")
    assert len(found["Layers"]) == 1
    assert len(found["VpcConfig"]["SubnetIds"]) == 2
    assert len(found["VpcConfig"]["SecurityGroupIds"]) == 1
    assert found["Environment"]["Variables"] == {
        "TIDEGATE_HOST": "proxy.tidegate.internal",
        "TIDEGATE_PORT": "5432",
        "TIDEGATE_DBNAME": "shop",
        "TIDEGATE_USER": "app",
        "TIDEGATE_SSLROOTCERT": "system",
        "TIDEGATE_AUTH": "tidegate-iam",
        "TIDEGATE_PROXY_ID": connection.proxy.db_proxy_name,
    }
    rules = template(app, "Proxy").environment()["TIDEGATE_IAM__RULES"]
    role = functions.text(functions.one("AWS::IAM::Role")["RoleName"])
    assert rules == f'[{{"principal":"arn:aws:iam::123456789012:role/{role}","users":["app"]}}]'


def test_the_layer_understands_the_environment(app: cdk.App, connection: Connection) -> None:
    from tidegate.config import resolve

    stack = cdk.Stack(app, "Functions")
    attach_function(function(stack, "Orders"), connection)
    variables = template(app, "Functions").one("AWS::Lambda::Function")["Environment"]["Variables"]
    config = resolve({}, {**variables, "AWS_REGION": "eu-west-1"})
    assert (config.host, config.auth, config.sslmode) == ("proxy.tidegate.internal", "tidegate-iam", "verify-full")


def test_a_function_in_a_vpc_keeps_its_own_group_and_gets_a_rule(app: cdk.App, connection: Connection) -> None:
    stack = cdk.Stack(app, "Functions")
    attach_function(function(stack, "Orders", vpc=connection.proxy.vpc, allow_all_outbound=False), connection)
    functions = template(app, "Functions")
    assert len(functions.one("AWS::Lambda::Function")["VpcConfig"]["SecurityGroupIds"]) == 1
    assert functions.one("AWS::EC2::SecurityGroupIngress")["ToPort"] == 5432
    assert functions.one("AWS::EC2::SecurityGroupEgress")["ToPort"] == 5432


def test_the_aspect_attaches_those_that_fit(app: cdk.App, connection: Connection) -> None:
    stack = cdk.Stack(app, "Functions")
    function(stack, "Orders")
    function(stack, "Node", runtime=lambda_.Runtime.NODEJS_22_X)
    function(stack, "Intel", architecture=lambda_.Architecture.X86_64)
    cdk.Aspects.of(stack).add(TidegateFunctionAspect(connection))
    found = template(app, "Functions").of_type("AWS::Lambda::Function")
    attached = {name[:5] for name, properties in found.items() if "Layers" in properties}
    assert attached == {"Order"}


def test_a_function_of_another_python_or_architecture_is_refused(app: cdk.App, connection: Connection) -> None:
    stack = cdk.Stack(app, "Functions")
    with pytest.raises(DeploymentError, match=r"runs on python3.12, but the layer is for python3.13"):
        attach_function(function(stack, "Old", runtime=lambda_.Runtime.PYTHON_3_12), connection)
    with pytest.raises(DeploymentError, match=r"runs on x86_64, but the layer is for arm64"):
        attach_function(function(stack, "Intel", architecture=lambda_.Architecture.X86_64), connection)


def test_by_password_a_function_may_read_its_users_secret_only(isolated: Assembly) -> None:
    functions = isolated["functions"]
    counter = next(
        one for name, one in functions.of_type("AWS::Lambda::Function").items() if name.startswith("Counter")
    )
    assert counter["Environment"]["Variables"]["TIDEGATE_AUTH"] == "secret"
    read = {
        functions.text(resource)
        for name, statement in statements(functions)
        if name.startswith("CounterRole") and "secretsmanager:GetSecretValue" in listed(statement["Action"])
        for resource in listed(statement["Resource"])
    }
    assert len(read) == 1
    assert "User" in read.pop()


def test_functions_can_read_the_authority_whoever_wrote_the_file(default: Assembly) -> None:
    (file,) = default.folder.glob("asset.*/tidegate-ca.pem")
    assert file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_load_tests_command_reaches_aws_as_it_is_written(existing: Assembly) -> None:
    outputs = existing["load"].body["Outputs"]
    text = existing["load"].text(outputs["RunCommand"]["Value"])
    command = re.sub(r"<([^<>]*)>", "id", text)
    assert command.startswith("aws ecs run-task ")
    done = subprocess.run(
        ["bash", "-c", "printf '%s\\n' " + command.removeprefix("aws ")], capture_output=True, text=True, check=True
    )
    *_, option, network = done.stdout.splitlines()
    assert option == "--network-configuration"
    assert re.fullmatch(r"awsvpcConfiguration=\{subnets=\[[\w,-]+\],securityGroups=\[[\w-]+\]\}", network)
    assert "subnet-0aaaaaaaaaaaaaaaa,subnet-0bbbbbbbbbbbbbbbb" in network
