"""The configurations of the app that the tests synthesise, as contexts of CDK."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

INFRA = Path(__file__).parents[2] / "infra"

EXISTING: dict[str, Any] = {
    "name": "shop",
    "account": "123456789012",
    "region": "eu-west-1",
    "vpc_id": "vpc-0123456789abcdef0",
    "private_subnet_ids": "subnet-0aaaaaaaaaaaaaaaa,subnet-0bbbbbbbbbbbbbbbb",
    "availability_zones": "eu-west-1a,eu-west-1b",
    "database": "existing",
    "database_host": "shop.cluster-c0ffee.eu-west-1.rds.amazonaws.com",
    "database_resource_id": "cluster-ABCDEFGHIJKL",
    "database_security_group": "sg-0123456789abcdef0",
    "database_max_connections": 800,
    "certificate_secret": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop/certificate-AbCdEf",
    "certificate_secret_key": "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555",
    "load_test": "true",
    "domain_name": "db.shop.internal",
    "hosted_zone_id": "Z0123456789ABCDEFGHIJ",
    "architecture": "x86_64",
    "spot": "true",
    "client_roles": "arn:aws:iam::123456789012:role/orders,arn:aws:iam::123456789012:role/carts",
    "max_tasks": "6",
    "admin_users": "app",
    "composite_alarm": "true",
    "runbook_url": "https://example.com/runbook/",
    "alarm_email": "on-call@example.com",
}

ISOLATED: dict[str, Any] = {
    "database_name": "shop",
    "nat_gateways": "0",
    "load_test": "true",
    "require_tls": "false",
    "certificate_secret": "",
    "ca_certificate": "",
    "max_tasks": "2",
}

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "try": {},
    "small": {"environment": "small"},
    "existing": {"environment": "bare", **EXISTING},
    "isolated": ISOLATED,
}


def context(name: str, folder: Path) -> dict[str, Any]:
    """What `cdk` would hand to the app: cdk.json's context, with `-c` for what this configuration says.

    Parameters: `folder`, with the layer's zips and a certificate of an authority.
    """
    found: dict[str, Any] = json.loads((INFRA / "cdk.json").read_text())["context"]
    for values in found["environments"].values():
        values["ca_certificate"] = str(folder / "tidegate-ca.pem")
    found["environments"]["bare"] = {}
    return found | {"layer_folder": str(folder)} | CONFIGURATIONS[name]
