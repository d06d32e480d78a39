"""Whom the rules let in: exactly those whom they name."""

from __future__ import annotations

import pytest

from tidegate_proxy.identity.iam.policy import Policy, Principal, PrincipalPattern

ROLE_SESSION = "arn:aws:sts::123456789012:assumed-role/shop/orders-api"


def principal(arn: str) -> Principal:
    return Principal.parse(arn, arn.split(":")[4])


def matches(pattern: str, arn: str) -> bool:
    return PrincipalPattern.parse(pattern).matches(principal(arn))


MATCHING = [
    ("arn:aws:iam::123456789012:role/shop", ROLE_SESSION),
    ("arn:aws:iam::123456789012:role/service-role/shop", ROLE_SESSION),
    ("arn:aws:iam::123456789012:role/sh*", ROLE_SESSION),
    ("arn:aws:iam::123456789012:role/sho?", ROLE_SESSION),
    ("arn:aws:iam::123456789012:role/*", ROLE_SESSION),
    ("arn:aws:sts::123456789012:assumed-role/shop/orders-*", ROLE_SESSION),
    ("arn:aws:sts::123456789012:assumed-role/*/orders-api", ROLE_SESSION),
    ("arn:aws:iam::123456789012:user/alice", "arn:aws:iam::123456789012:user/alice"),
    ("arn:aws:iam::123456789012:user/dev/*", "arn:aws:iam::123456789012:user/dev/alice@example.com"),
    ("arn:aws:iam::123456789012:root", "arn:aws:iam::123456789012:root"),
    ("arn:aws:sts::123456789012:federated-user/bob", "arn:aws:sts::123456789012:federated-user/bob"),
    ("arn:aws-cn:iam::123456789012:role/shop", "arn:aws-cn:sts::123456789012:assumed-role/shop/s"),
]


@pytest.mark.parametrize(("pattern", "arn"), MATCHING)
def test_whom_a_rule_names_it_matches(pattern: str, arn: str) -> None:
    assert matches(pattern, arn)


NOT_MATCHING = [
    ("arn:aws:iam::123456789012:role/shop", "arn:aws:sts::999999999999:assumed-role/shop/orders-api"),
    ("arn:aws:iam::123456789012:role/shop", "arn:aws-cn:sts::123456789012:assumed-role/shop/orders-api"),
    ("arn:aws:iam::123456789012:role/shop", "arn:aws:sts::123456789012:assumed-role/shop2/orders-api"),
    ("arn:aws:iam::123456789012:role/shop", "arn:aws:sts::123456789012:assumed-role/xshop/orders-api"),
    ("arn:aws:iam::123456789012:role/shop", "arn:aws:sts::123456789012:assumed-role/SHOP/orders-api"),
    ("arn:aws:iam::123456789012:role/shop", "arn:aws:iam::123456789012:user/shop"),
    ("arn:aws:iam::123456789012:role/*", "arn:aws:iam::123456789012:user/shop"),
    ("arn:aws:iam::123456789012:role/*", "arn:aws:iam::123456789012:root"),
    ("arn:aws:iam::123456789012:role/shop", "arn:aws:sts::123456789012:assumed-role/intruder/shop"),
    ("arn:aws:sts::123456789012:assumed-role/shop/orders-api", "arn:aws:sts::123456789012:assumed-role/shop/x"),
    ("arn:aws:sts::123456789012:assumed-role/sh*/orders-api", "arn:aws:sts::123456789012:assumed-role/sh/x"),
    ("arn:aws:iam::123456789012:user/*", "arn:aws:iam::123456789012:user/admins/alice"),
    ("arn:aws:iam::123456789012:user/a.ice", "arn:aws:iam::123456789012:user/alice"),
]


@pytest.mark.parametrize(("pattern", "arn"), NOT_MATCHING)
def test_whom_a_rule_does_not_name_it_does_not_match(pattern: str, arn: str) -> None:
    assert not matches(pattern, arn)


@pytest.mark.parametrize(
    "pattern",
    [
        "*",
        "shop",
        "arn:aws:iam::*:role/shop",
        "arn:aws:iam::12345678901:role/shop",
        "arn:aws:iam:::role/shop",
        "arn:*:iam::123456789012:role/shop",
        "arn:aws:iam:eu-west-1:123456789012:role/shop",
        "arn:aws:iam::123456789012:*",
        "arn:aws:iam::123456789012:role",
        "arn:aws:iam::123456789012:role/",
        "arn:aws:iam::123456789012:role/a b",
        "arn:aws:iam::123456789012:role/service-role/*",
        "arn:aws:iam::123456789012:assumed-role/shop/x",
        "arn:aws:sts::123456789012:role/shop",
        "arn:aws:sts::123456789012:assumed-role/shop",
        "arn:aws:sts::123456789012:assumed-role/a/b/c",
        "arn:aws:iam::123456789012:root/x",
        "arn:aws:iam::123456789012:group/shop",
        "arn:aws:iam::123456789012:role/shop\n",
    ],
)
def test_a_rule_that_would_not_say_what_it_seems_to_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r'is "|for example'):
        PrincipalPattern.parse(pattern)


@pytest.mark.parametrize(
    ("arn", "account"),
    [
        (ROLE_SESSION, "999999999999"),
        ("arn:aws:sts::123456789012:assumed-role/shop", "123456789012"),
        ("arn:aws:sts::123456789012:assumed-role/shop/a/b", "123456789012"),
        ("arn:aws:iam::123456789012:role/shop", "123456789012"),
        ("arn:aws:iam::123456789012:assumed-role/shop/x", "123456789012"),
        ("arn:aws:s3::123456789012:bucket/x", "123456789012"),
        ("", ""),
    ],
)
def test_an_arn_that_cannot_have_signed_anything_is_refused(arn: str, account: str) -> None:
    with pytest.raises(ValueError, match="it names"):
        Principal.parse(arn, account)


def test_a_rule_is_about_its_own_users_only() -> None:
    policy = Policy(
        [
            (PrincipalPattern.parse("arn:aws:iam::123456789012:role/shop"), ["orders", "reports"]),
            (PrincipalPattern.parse("arn:aws:iam::123456789012:user/alice"), ["reports", "admin"]),
        ]
    )
    role, alice = principal(ROLE_SESSION), principal("arn:aws:iam::123456789012:user/alice")
    assert [policy.allows(role, user) for user in ("orders", "reports", "admin", "nobody")] == [
        True,
        True,
        False,
        False,
    ]
    assert [policy.allows(alice, user) for user in ("orders", "reports", "admin", "Admin")] == [
        False,
        True,
        True,
        False,
    ]
    assert set(policy.users) == {"orders", "reports", "admin"}
