"""The table `iam`: what it means, and that what cannot be meant is said in one line."""

from __future__ import annotations

import pytest
from tests.proxy.settings.conftest import SERVER, Certificates, Load

from tidegate_proxy.cli import describe
from tidegate_proxy.settings import ConfigurationError, IamRule

TLS = 'client_tls_cert = "server.pem"\nclient_tls_key = "server.key"\n'
ROLE = "arn:aws:iam::123456789012:role/shop"
RULES = f'[[iam.rules]]\nprincipal = "{ROLE}"\nusers = ["orders", "reports"]\n'
IAM = '[iam]\nregion = "eu-west-1"\nproxy_id = "shop-proxy"\n'


def test_rules_and_defaults(load: Load, certificates: Certificates) -> None:
    settings = load(TLS + SERVER + IAM + RULES)
    assert settings.iam is not None
    assert settings.iam.rules == (IamRule(principal=ROLE, users=("orders", "reports")),)
    assert settings.iam.users == {"orders", "reports"}
    assert settings.iam.sts_region.sts_hosts[0] == "sts.eu-west-1.amazonaws.com"
    assert "IAM: region eu-west-1, rules: 1, database users who log in by a token: 2" in describe(settings)


def test_everything_from_the_environment(load: Load, certificates: Certificates) -> None:
    variables = {
        "TIDEGATE_IAM__REGION": "eu-west-1",
        "TIDEGATE_IAM__PROXY_ID": "shop-proxy",
        "TIDEGATE_IAM__RULES": f'[{{"principal": "{ROLE}", "users": ["orders"]}}]',
        "TIDEGATE_IAM__RDS_USERS": "reports, admin",
        "TIDEGATE_IAM__STS_CONNECTIONS": "5",
    }
    settings = load(TLS + SERVER, variables)
    assert settings.iam is not None
    assert settings.iam.users == {"orders", "reports", "admin"}
    assert settings.iam.sts_connections == 5


def test_the_whole_table_from_one_variable(load: Load, certificates: Certificates) -> None:
    settings = load(TLS + SERVER, {"TIDEGATE_IAM": '{"rds_users": ["orders"]}'})
    assert settings.iam is not None
    assert settings.iam.rds_users == ("orders",)


def test_rds_users_need_neither_region_nor_identifier(load: Load, certificates: Certificates) -> None:
    settings = load(TLS + SERVER + '[iam]\nrds_users = ["orders"]\n')
    assert settings.iam is not None
    assert settings.iam.users == {"orders"}


def test_who_logs_in_by_a_token_may_use_the_console(load: Load, certificates: Certificates) -> None:
    assert load('admin_users = ["orders"]\n' + TLS + SERVER + IAM + RULES).admin_users == ("orders",)


@pytest.mark.parametrize(
    "endpoint",
    ["https://vpce-1.sts.eu-west-1.vpce.amazonaws.com", "https://sts.example:8443/", "http://127.0.0.1:5000"],
)
def test_an_endpoint_of_ones_own(load: Load, certificates: Certificates, endpoint: str) -> None:
    settings = load(TLS + SERVER + IAM + f'sts_endpoint = "{endpoint}"\n' + RULES)
    assert settings.iam is not None
    assert settings.iam.sts_endpoint == endpoint.rstrip("/")


FAULTS = {
    "nobody": ('[iam]\nregion = "eu-west-1"\n', "iam: has neither rules nor rds_users: name somebody who may log in"),
    "no region": (
        '[iam]\nproxy_id = "x"\n' + RULES,
        'iam: has rules but no region: add it, for example region = "eu-west-1"',
    ),
    "no identifier": (
        '[iam]\nregion = "eu-west-1"\n' + RULES,
        'iam: has rules but no proxy_id: add it, for example proxy_id = "shop-proxy"',
    ),
    "a region misspelled": (
        IAM.replace("eu-west-1", "eu-wset-1") + RULES,
        ('iam: has the region "eu-wset-1", which is no AWS region: did you mean "eu-west-1"?'),
    ),
    "a region that may be new": (
        IAM.replace("eu-west-1", "eu-west-19") + RULES,
        (
            'iam: has the region "eu-west-19", which botocore does not know: did you mean "eu-west-1"?'
            " If it is newer than the installed botocore, name its endpoint in sts_endpoint"
        ),
    ),
    "no region at all": (
        IAM.replace("eu-west-1", "Ireland") + RULES,
        'iam: has the region "Ireland", which is no AWS region: one is, for example, "eu-west-1"',
    ),
    "another partition": (
        IAM.replace("eu-west-1", "cn-north-1") + RULES,
        (
            f'iam: has a rule for "{ROLE}", but the region cn-north-1 is in the partition aws-cn:'
            " its ARNs begin with arn:aws-cn:"
        ),
    ),
    "no account": (
        IAM + RULES.replace("123456789012", "*"),
        (
            'iam.rules.0.principal: is "arn:aws:iam::*:role/shop", but must have an account of twelve digits,'
            " for example arn:aws:iam::123456789012:role/shop"
        ),
    ),
    "no ARN": (
        IAM + RULES.replace(ROLE, "shop"),
        (
            'iam.rules.0.principal: is "shop", but must be the ARN of a role or a user,'
            " for example arn:aws:iam::123456789012:role/shop"
        ),
    ),
    "a misspelled key of a rule": (
        IAM + RULES.replace("users", "user"),
        "iam.rules.0.user: unknown key; did you mean users? (and 1 more problem)",
    ),
    "a rule without users": (
        IAM + RULES.replace('["orders", "reports"]', "[]"),
        "iam.rules.0.users: must be a list of names",
    ),
    "rules that are no tables": (IAM + 'rules = "x"\n', "iam.rules: must be a list of tables"),
    "an identifier with a space": (
        IAM.replace("shop-proxy", "shop proxy") + RULES,
        "iam.proxy_id: must be 1 to 255 visible ASCII characters without spaces, for example shop-proxy",
    ),
    "STS in the clear": (
        IAM + 'sts_endpoint = "http://sts.example"\n' + RULES,
        (
            "iam.sts_endpoint: must be an https URL of a host alone (http only on loopback), for example"
            " https://vpce-0123456789abcdef0-abcdefgh.sts.eu-west-1.vpce.amazonaws.com"
        ),
    ),
    "more than AWS advises": (
        IAM + "rds_logins_per_second = 201\n" + RULES,
        "iam.rds_logins_per_second: must be a whole number from 1 to 200, for example 100",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_cannot_be_meant_is_said_in_one_line(load: Load, certificates: Certificates, case: str) -> None:
    text, expected = FAULTS[case]
    with pytest.raises(ConfigurationError) as caught:
        load(TLS + SERVER + text)
    assert str(caught.value) == f"{certificates.folder}/tidegate.toml: {expected}"


@pytest.mark.parametrize(
    "path", ["sts.example", "https://sts.example/path", "https://u:p@sts.example", "https://sts.example?x", "https://"]
)
def test_an_endpoint_is_a_host_alone(load: Load, certificates: Certificates, path: str) -> None:
    with pytest.raises(ConfigurationError, match="must be an https URL of a host alone"):
        load(TLS + SERVER + IAM + f'sts_endpoint = "{path}"\n' + RULES)


@pytest.mark.parametrize("tls", ["", 'client_tls = "disable"\n'])
def test_without_tls_there_is_no_iam(load: Load, certificates: Certificates, tls: str) -> None:
    with pytest.raises(ConfigurationError, match="iam needs TLS towards clients"):
        load(tls + SERVER + IAM + RULES)


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"TIDEGATE_IAM__RULES": "shop"}, "must be a list as JSON, but is malformed at character 1"),
        ({"TIDEGATE_IAM__RULES": "{}"}, "must be a list as JSON"),
        ({"TIDEGATE_IAM": "[]"}, "must be a table as JSON"),
        ({"TIDEGATE_IAM__REGIN": "x"}, "unknown variable; did you mean TIDEGATE_IAM__REGION?"),
    ],
)
def test_a_variable_that_cannot_be_meant_is_named(
    load: Load, certificates: Certificates, variables: dict[str, str], text: str
) -> None:
    (name,) = variables
    with pytest.raises(ConfigurationError) as caught:
        load(TLS + SERVER, variables)
    assert str(caught.value).startswith(f"{name}: {text}")


RDS_USERS = '[iam]\nrds_users = ["orders"]\n'


@pytest.mark.parametrize("tls", ["disable", "prefer", "require"])
@pytest.mark.parametrize(
    "where", ['host = "db.example.com"', 'host = "127.0.0.1"\nendpoints = ["db2.example.com:5433"]']
)
def test_rds_tokens_need_a_server_that_proves_who_it_is(
    load: Load, certificates: Certificates, tls: str, where: str
) -> None:
    """Whoever stands between could let every client in."""
    server = f'[databases.app]\n{where}\ntls = "{tls}"\n'
    with pytest.raises(ConfigurationError, match=r'set databases\.app\.tls to "verify-full"'):
        load(TLS + server + RDS_USERS)
    assert load(TLS + server + IAM + RULES).iam is not None, "tokens for the proxy are no server's business"


@pytest.mark.parametrize("tls", ["disable", "require"])
def test_rds_tokens_may_be_tried_without_that_on_this_machine(load: Load, certificates: Certificates, tls: str) -> None:
    server = f'[databases.app]\nhost = "localhost"\nendpoints = ["127.0.0.2:5433", "[::1]"]\ntls = "{tls}"\n'
    assert load(TLS + server + RDS_USERS).iam is not None
