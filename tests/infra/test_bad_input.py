"""What cannot be deployed is an error at synth time that says what to change."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.infra.configurations import EXISTING
from tests.infra.conftest import environment

from tidegate_infra import node as node

import aws_cdk as cdk  # isort: skip
from aws_cdk import aws_ec2 as ec2  # isort: skip
from aws_cdk import aws_ecs as ecs  # isort: skip
from aws_cdk import aws_iam as iam  # isort: skip
from aws_cdk import aws_rds as rds  # isort: skip
from aws_cdk import aws_route53 as route53  # isort: skip
from aws_cdk import aws_secretsmanager as secretsmanager  # isort: skip
from tidegate_infra.app.network import Network  # isort: skip
from tidegate_infra.app.parameters import Parameters, read_parameters  # isort: skip
from tidegate_infra.capacity import connections_of_serverless  # isort: skip
from tidegate_infra.endpoint import EndpointType  # isort: skip
from tidegate_infra.errors import DeploymentError  # isort: skip
from tidegate_infra.layer import TidegateLayer  # isort: skip
from tidegate_infra.proxy import TidegateProxy  # isort: skip
from tidegate_infra.proxy_target import ProxyTarget  # isort: skip
from tidegate_infra.subnets import private_subnets  # isort: skip

Make = Callable[..., TidegateProxy]


@pytest.fixture
def stack() -> cdk.Stack:
    return cdk.Stack(cdk.App(), "Stack", env=cdk.Environment(account="123456789012", region="eu-west-1"))


@pytest.fixture
def vpc(stack: cdk.Stack) -> ec2.Vpc:
    return ec2.Vpc(stack, "Vpc", max_azs=2)


@pytest.fixture
def make(stack: cdk.Stack, vpc: ec2.Vpc) -> Make:
    """A proxy that would do, but for what a test changes."""
    secret = rds.DatabaseSecret(stack, "Secret", username="app")
    certificate = secretsmanager.Secret.from_secret_name_v2(stack, "Certificate", "certificate")
    image = ecs.ContainerImage.from_registry("tidegate")

    def proxy(**changed: Any) -> TidegateProxy:
        given = {
            "vpc": vpc,
            "proxy_target": ProxyTarget.from_endpoints("db.example.com", secret=secret, max_connections=100),
            "certificate": certificate,
            "image": image,
        }
        return TidegateProxy(stack, "Proxy", **(given | changed))

    return proxy


def test_one_subnet_is_too_few(make: Make, vpc: ec2.Vpc) -> None:
    one = ec2.SubnetSelection(subnets=vpc.private_subnets[:1])
    with pytest.raises(DeploymentError, match=r"1 private subnet selected, but the proxy needs 2 .* add subnets"):
        make(vpc_subnets=one)


def test_subnets_of_one_zone_are_too_few(make: Make, stack: cdk.Stack) -> None:
    vpc = ec2.Vpc.from_vpc_attributes(
        stack,
        "Other",
        vpc_id="vpc-1",
        availability_zones=["eu-west-1a", "eu-west-1a"],
        private_subnet_ids=["subnet-1", "subnet-2"],
    )
    with pytest.raises(DeploymentError, match=r"all 2 subnets are in eu-west-1a, .* select subnets in another one"):
        make(vpc=vpc)


def test_public_subnets_are_refused(make: Make) -> None:
    with pytest.raises(DeploymentError, match=r"is a public subnet: .*subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS"):
        make(vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC))


def test_a_vpc_without_private_subnets_is_refused(make: Make, stack: cdk.Stack) -> None:
    public = ec2.SubnetConfiguration(name="public", subnet_type=ec2.SubnetType.PUBLIC)
    vpc = ec2.Vpc(stack, "Public", max_azs=2, subnet_configuration=[public])
    with pytest.raises(DeploymentError, match=r"vpc: has no private subnet"):
        make(vpc=vpc)


def test_subnets_of_a_kind_that_the_vpc_does_not_have_are_refused(make: Make, stack: cdk.Stack) -> None:
    isolated = ec2.SubnetConfiguration(name="isolated", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED)
    vpc = ec2.Vpc(stack, "Isolated", max_azs=2, subnet_configuration=[isolated])
    wanted = ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS)
    with pytest.raises(DeploymentError, match=r"vpc_subnets: There are no 'Private' subnet groups .* or leave"):
        make(vpc=vpc, vpc_subnets=wanted)


def test_an_existing_vpc_may_have_isolated_subnets_only(stack: cdk.Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ["subnet-1", "subnet-2"]
    zones = ["eu-west-1a", "eu-west-1b"]
    vpc = ec2.Vpc.from_vpc_attributes(
        stack, "Isolated", vpc_id="vpc-1", availability_zones=zones, isolated_subnet_ids=ids
    )
    monkeypatch.setattr(Network, "_existing", lambda *_: vpc)
    network = Network(stack, "Network", Parameters.model_validate(EXISTING | {"spot": False, "load_test": False}))
    assert [subnet.subnet_id for subnet in private_subnets(network.vpc, network.subnets).subnets] == ids


def test_a_database_without_a_secret_needs_iam(make: Make) -> None:
    with pytest.raises(DeploymentError, match=r"has no secret and IAM is off, .* give secrets=.*IAM_AUTH"):
        make(proxy_target=ProxyTarget.from_endpoints("db.example.com"))


def test_iam_to_a_database_needs_its_resource_id_and_clients_with_iam(make: Make) -> None:
    scheme = rds.DefaultAuthScheme.IAM_AUTH
    with pytest.raises(DeploymentError, match=r"needs the RDS resource id of db.example.com"):
        make(proxy_target=ProxyTarget.from_endpoints("db.example.com"), default_auth_scheme=scheme)


def test_iam_to_a_database_needs_clients_with_iam(make: Make) -> None:
    target = ProxyTarget.from_endpoints("db.example.com", resource_id="db-A")
    with pytest.raises(DeploymentError, match=r"IAM_AUTH needs iam_auth=True"):
        make(proxy_target=target, default_auth_scheme=rds.DefaultAuthScheme.IAM_AUTH)


def test_a_name_must_be_in_the_zone_that_is_given(make: Make, stack: cdk.Stack) -> None:
    zone = route53.HostedZone.from_hosted_zone_attributes(stack, "Zone", hosted_zone_id="Z1", zone_name="shop.internal")
    with pytest.raises(DeploymentError, match=r"db.store.internal is not in the hosted zone shop.internal: correct"):
        make(domain_name="db.store.internal", hosted_zone=zone)


def test_cloud_map_takes_no_zone_and_no_name_of_two_parts(make: Make, stack: cdk.Stack) -> None:
    zone = route53.HostedZone.from_hosted_zone_attributes(stack, "Zone", hosted_zone_id="Z1", zone_name="shop.internal")
    with pytest.raises(DeploymentError, match=r"hosted_zone: .* Cloud Map makes a zone of its own: leave it out"):
        make(endpoint_type=EndpointType.DNS, domain_name="db.shop.internal", hosted_zone=zone)


def test_cloud_map_hides_no_whole_domain(make: Make) -> None:
    with pytest.raises(DeploymentError, match=r'private zone for "internal", .* for example "proxy.db.internal"'):
        make(endpoint_type=EndpointType.DNS, domain_name="db.internal")


def test_a_zone_without_a_name_for_it_is_a_mistake(make: Make, stack: cdk.Stack) -> None:
    zone = route53.HostedZone.from_hosted_zone_attributes(stack, "Zone", hosted_zone_id="Z1", zone_name="shop.internal")
    with pytest.raises(DeploymentError, match=r"hosted_zone: needs domain_name"):
        make(hosted_zone=zone)


def test_tls_needs_a_certificate(make: Make) -> None:
    with pytest.raises(DeploymentError, match=r"require_tls needs the secret .*`python -m tidegate_infra.certificate"):
        make(certificate=None)


OWNED: dict[str, tuple[object, str]] = {
    "workers": (4, r"settings: workers: .*cpu=4096 makes 4 processes"),
    "listen_port": (6432, r"settings: listen_port: .*connect to 5432"),
    "http_port": (9000, r"settings: http_port: .*leave it out"),
    "fleet_port": (6000, r"settings: fleet_port: .*leave it out"),
    "listen_host": ("127.0.0.1", r"settings: listen_host: .*leave it out"),
    "proxy_name": ("shop", r'settings: proxy_name: .*db_proxy_name="shop"'),
    "cloudwatch_namespace": ("Shop", r"settings: cloudwatch_namespace: .*leave it out"),
    "idle_client_timeout": (3600, r"settings: idle_client_timeout: .*idle_client_timeout=Duration.seconds\(3600\)"),
}


@pytest.mark.parametrize("name", OWNED)
def test_a_setting_that_other_resources_follow_is_a_parameter_or_fixed(make: Make, name: str) -> None:
    value, says = OWNED[name]
    with pytest.raises(DeploymentError, match=says):
        make(settings={name: value})


def test_a_pool_larger_than_the_engines_share_is_refused(make: Make) -> None:
    with pytest.raises(
        DeploymentError, match=r"pool_size: 91 is more than 90, which is 90 % of 100 .*: lower pool_size"
    ):
        make(pool_size=91)


def test_the_engines_connections_are_known_from_the_constructs(make: Make, stack: cdk.Stack, vpc: ec2.Vpc) -> None:
    instance = rds.DatabaseInstance(
        stack,
        "Instance",
        vpc=vpc,
        engine=rds.DatabaseInstanceEngine.postgres(version=rds.PostgresEngineVersion.VER_17_7),
        instance_type=ec2.InstanceType("t4g.micro"),
    )
    cluster = rds.DatabaseCluster(
        stack,
        "Cluster",
        vpc=vpc,
        engine=rds.DatabaseClusterEngine.aurora_postgres(version=rds.AuroraPostgresEngineVersion.VER_17_7),
        writer=rds.ClusterInstance.provisioned("Writer", instance_type=ec2.InstanceType("r6g.large")),
        readers=[rds.ClusterInstance.provisioned("Reader", instance_type=ec2.InstanceType("t4g.medium"))],
    )
    assert ProxyTarget.from_instance(instance).max_connections == 112
    assert ProxyTarget.from_cluster(cluster).max_connections == 450
    # Its own parameter group may say otherwise.
    assert ProxyTarget.from_instance(instance, max_connections=400).max_connections == 400
    with pytest.raises(DeploymentError, match=r"pool_size: 500 is more than 405, .* that Stack/Cluster accepts"):
        make(proxy_target=ProxyTarget.from_cluster(cluster), pool_size=500)


def test_serverless_accepts_what_its_highest_capacity_does_unless_it_may_go_down_to_half() -> None:
    assert [connections_of_serverless(1, most) for most in (1, 4, 16, 64)] == [189, 823, 3360, 5000]
    assert [connections_of_serverless(0.5, most) for most in (1, 4, 16, 64)] == [189, 823, 2000, 2000]


def test_another_engine_is_refused(stack: cdk.Stack, vpc: ec2.Vpc) -> None:
    mysql = rds.DatabaseInstance(stack, "MySql", vpc=vpc, engine=rds.DatabaseInstanceEngine.MYSQL)
    with pytest.raises(DeploymentError, match=r"the engine is MYSQL, but Tidegate speaks PostgreSQL only"):
        ProxyTarget.from_instance(mysql)


def test_a_secret_that_does_not_tell_its_user_must_be_given_by_user(make: Make, stack: cdk.Stack) -> None:
    foreign = secretsmanager.Secret.from_secret_name_v2(stack, "Foreign", "foreign")
    with pytest.raises(DeploymentError, match=r"which database user Stack/Foreign is for: give them by user"):
        make(secrets=[foreign])


def test_somebody_must_be_allowed_to_log_in(make: Make, stack: cdk.Stack) -> None:
    make(iam_auth=True)
    app = stack.node.root
    assert isinstance(app, cdk.App)
    with pytest.raises(RuntimeError, match=r"iam_auth: nobody may log in: grant_connect"):
        app.synth()


def test_grants_need_iam_and_a_user(make: Make, stack: cdk.Stack) -> None:
    role = iam.Role(stack, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
    proxy = make()
    with pytest.raises(DeploymentError, match=r"needs iam_auth=True"):
        proxy.grant_connect(role, "app")


def test_grants_need_a_user_and_a_principal_with_an_arn(make: Make, stack: cdk.Stack) -> None:
    role = iam.Role(stack, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
    proxy = make(iam_auth=True)
    with pytest.raises(DeploymentError, match=r"name the database user"):
        proxy.grant_connect(role)
    with pytest.raises(DeploymentError, match=r"has no role of its own"):
        proxy.grant_connect(iam.ServicePrincipal("lambda.amazonaws.com"), "app")


@pytest.mark.parametrize("python", ["3.8", "3.13.1", "python3.13"])
def test_an_unknown_python_is_refused(stack: cdk.Stack, python: str) -> None:
    with pytest.raises(DeploymentError, match=r"is not one that the layer is built for: 3.12, 3.13, 3.14"):
        TidegateLayer(stack, "Layer", python=python)


def test_a_layer_that_was_not_built_says_how(stack: cdk.Stack, tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match=r"build it with `make layer ARCH=x86_64 PYTHON=3.12`"):
        TidegateLayer(stack, "Layer", python="3.12", architecture="x86_64", zips=tmp_path)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"max_task": 3}, "max_task: unknown parameter; known are name, account"),
    "wrong type": ({"max_tasks": "many"}, "max_tasks: input should be a valid integer"),
    "no host": ({"database_host": None}, "database_host: is missing"),
    "no login": ({"database_resource_id": None}, "database_secret: the database has neither a secret nor IAM"),
    "nobody": ({"client_roles": "", "functions": "false"}, "client_roles: nobody may log in: name the roles"),
    "no key": ({"certificate_secret_key": "alias/shop"}, "certificate_secret_key: string should match pattern"),
    "key without a secret": (
        {"database_secret_key": EXISTING["certificate_secret_key"]},
        "database_secret_key: needs database_secret, which is encrypted with it",
    ),
    "no role": ({"client_roles": "orders"}, "client_roles: 'orders' is no ARN of a role, such as arn:aws:iam"),
    "no certificate": ({"certificate_secret": None}, "certificate_secret: is missing"),
    "one subnet": (
        {"private_subnet_ids": "subnet-1", "availability_zones": "eu-west-1a"},
        "private_subnet_ids: give at least two, in different availability zones",
    ),
    "no zones": ({"availability_zones": ""}, "availability_zones: give the zone of each"),
    "Python": ({"python": "3.9"}, "python: input should be '3.12', '3.13' or '3.14'"),
    "fewer at most than at least": ({"max_tasks": "1"}, "max_tasks: 1 must not be below min_tasks"),
    "no such admin": ({"admin_users": "app,postgres"}, "admin_users: the proxy does not know 'postgres'; it knows app"),
    "zone without a name": ({"domain_name": None}, "hosted_zone_id: needs domain_name, the name that is put into it"),
    "zone and Cloud Map": (
        {"endpoint_type": "dns"},
        "hosted_zone_id: is for endpoint_type = nlb; with dns, Cloud Map makes a zone of its own",
    ),
    "name in another zone": (
        {"hosted_zone_name": "store.internal"},
        "domain_name: db.shop.internal is not in the hosted zone store.internal",
    ),
    "zone of all that is internal": (
        {"endpoint_type": "dns", "hosted_zone_id": None, "domain_name": "db.internal"},
        'domain_name: with endpoint_type = dns, Cloud Map makes a private zone for "internal"',
    ),
    "environment": ({"environment": "prod"}, "environment: there is no 'prod' in cdk.json: known are bare"),
}


@pytest.mark.parametrize(("changed", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_parameters_are_named_with_what_would_be_right(changed: dict[str, Any], message: str) -> None:
    single = EXISTING | changed
    chosen = single.pop("environment", "bare")
    with pytest.raises(DeploymentError) as caught:
        read_parameters({"bare": {}}, chosen, single)
    assert message in str(caught.value)


def test_cdk_gets_lines_and_no_traceback(tmp_path: Path) -> None:
    context = json.dumps({"environments": {"try": {}}, "cpu": "7"})
    variables = {**environment(), "CDK_OUTDIR": str(tmp_path / "out"), "CDK_CONTEXT_JSON": context}
    # The Node that is needed is the wheel's, whatever else is installed.
    variables["PATH"] = str(tmp_path)
    command = [sys.executable, "-m", "tidegate_infra.app"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("environment try: cpu: input should be 256, 512")
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("*.template.json"))
