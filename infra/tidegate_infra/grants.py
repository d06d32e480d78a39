"""Who may log in through the proxy with AWS credentials: the rules of its setting `iam`, kept in its task
definition."""

from __future__ import annotations

import jsii
from aws_cdk import ArnFormat, Aws, Fn, Names, Stack, Token
from aws_cdk import aws_iam as iam
from constructs import Construct, IConstruct, IValidation

from tidegate_infra.errors import DeploymentError

LONGEST_ROLE_NAME = 64
LONGEST_REGION = len("ap-southeast-1")


@jsii.implements(IValidation)
class SomebodyMayConnect:
    """Asked by CDK at synth time: a proxy whose clients log in by IAM, but which nobody may log in to, would not
    start."""

    def __init__(self, rules: ConnectRules) -> None:
        self._rules = rules

    def validate(self) -> list[str]:
        """What is wrong, if anything."""
        if self._rules.db_users:
            return []
        return ['iam_auth: nobody may log in: grant_connect(role, "app") for a role, or leave iam_auth out']


class ConnectRules:
    """AWS principals, and the database users that each may log in as."""

    def __init__(self) -> None:
        self._users: dict[str, list[str]] = {}

    def add(self, principal: str, db_user: str) -> None:
        """Let the principal with this ARN log in as `db_user`; a second time changes nothing."""
        users = self._users.setdefault(principal, [])
        if db_user not in users:
            users.append(db_user)

    @property
    def db_users(self) -> list[str]:
        """Every user that somebody may log in as."""
        return sorted({user for users in self._users.values() for user in users})

    def as_setting(self) -> list[dict[str, object]]:
        """The value of `iam.rules`."""
        return [{"principal": principal, "users": users} for principal, users in self._users.items()]


def principal_arn(scope: Construct, grantee: iam.IGrantable) -> str:
    """The ARN by which the proxy knows `grantee`.

    A role of another stack gets a name that is known beforehand: its stack needs the proxy's endpoint, and by a
    reference to its ARN the proxy's stack would need it too, which CloudFormation cannot deploy.

    Parameters: `scope`, where the rule is needed.
    Raises: DeploymentError for a principal that is not a role, a user or an ARN.
    """
    principal = grantee.grant_principal
    if isinstance(principal, iam.ArnPrincipal):
        own: str = principal.arn
        return own
    for attribute in ("role_arn", "user_arn"):
        arn: str | None = getattr(principal, attribute, None)
        if arn is not None:
            named = _named(scope, principal) if attribute == "role_arn" else None
            return named or arn
    raise DeploymentError(
        f"grant_connect: {type(grantee).__name__} has no role of its own: give a role, a user, a Lambda function, or "
        'iam.ArnPrincipal("arn:aws:iam::ACCOUNT:role/NAME")'
    )


def _named(scope: Construct, principal: object) -> str | None:
    if not isinstance(principal, iam.Role) or Stack.of(principal) is Stack.of(scope):
        return None
    stack = Stack.of(principal)
    child: IConstruct | None = principal.node.default_child
    assert isinstance(child, iam.CfnRole)
    # Where nobody gave a name, CDK has put a token here that comes to nothing.
    if not stack.resolve(child.role_name):
        least = LONGEST_ROLE_NAME - LONGEST_REGION - 1
        # With the region, since roles are global and the same stack may stand in several.
        child.role_name = Fn.join("-", [Names.unique_resource_name(principal, max_length=least), Aws.REGION])
    # A path would be part of the ARN, but is not part of what STS tells of a session.
    name = child.role_name
    account = stack.account if not Token.is_unresolved(stack.account) else Aws.ACCOUNT_ID
    arn: str = stack.format_arn(
        service="iam",
        region="",
        account=account,
        resource="role",
        resource_name=name,
        arn_format=ArnFormat.SLASH_RESOURCE_NAME,
    )
    return arn
