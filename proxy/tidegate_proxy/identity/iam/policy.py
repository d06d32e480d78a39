"""Which AWS principal may log in as which database user. Pure decisions: ARNs in, answers out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

_ARN = re.compile(r"arn:(?P<partition>[a-z0-9-]+):(?P<service>[a-z0-9-]+)::(?P<account>[^:]*):(?P<resource>[^:]+)")
# What IAM allows in names, session names and paths; "*" and "?" besides in patterns.
_NAME = re.compile(r"[\w+=,.@-]+", re.ASCII)
_ACCOUNT = re.compile(r"[0-9]{12}")
_SERVICES = {"role": "iam", "user": "iam", "root": "iam", "assumed-role": "sts", "federated-user": "sts"}
_EXAMPLE = "for example arn:aws:iam::123456789012:role/shop"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who signed a token.

    Parameters
    - `arn`: as STS tells it, for a role with the session's name: `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`.
    - `canonical`: the same as IAM has it: `arn:aws:iam::ACCOUNT:role/ROLE`, without the role's path, which STS does not
      tell; for others it is `arn`.
    """

    arn: str
    canonical: str

    @classmethod
    def parse(cls, arn: str, account: str) -> Principal:
        """Parameters: `arn` and `account`, as STS tells them. Raises: ValueError for what no principal can be."""
        match = _ARN.fullmatch(arn)
        if match is None or not _ACCOUNT.fullmatch(match["account"]) or match["account"] != account:
            raise ValueError("it names no principal of the account that it names")
        kind, _, name = match["resource"].partition("/")
        if _SERVICES.get(kind) != match["service"] or kind == "role":
            raise ValueError("it names something that cannot sign a request")
        if kind == "assumed-role":
            role, _, session = name.partition("/")
            if not _NAME.fullmatch(role) or not _NAME.fullmatch(session):
                raise ValueError("it names an assumed role without a session")
            return cls(arn, f"arn:{match['partition']}:iam::{account}:role/{role}")
        return cls(arn, arn)


@dataclass(frozen=True)
class PrincipalPattern:
    """What a rule says of principals: an ARN, in whose last parts "*" stands for any characters but "/", "?" for one.

    `partition` and the account are always exact.
    """

    partition: str
    text: str

    @classmethod
    def parse(cls, text: str) -> PrincipalPattern:
        """Read a rule's principal. Raises: ValueError with a sentence without a subject, which quotes the ARN."""
        match = _ARN.fullmatch(text)
        if match is None:
            raise ValueError(f'is "{text}", but must be the ARN of a role or a user, {_EXAMPLE}')
        if not _ACCOUNT.fullmatch(match["account"]):
            raise ValueError(f'is "{text}", but must have an account of twelve digits, {_EXAMPLE}')
        kind, slash, name = match["resource"].partition("/")
        if _SERVICES.get(kind) != match["service"]:
            raise ValueError(
                f'is "{text}", but must name iam with role/NAME, user/NAME or root, or sts with'
                f" assumed-role/ROLE/SESSION or federated-user/NAME, {_EXAMPLE}"
            )
        if not re.fullmatch(r"" if kind == "root" else r"[\w+=,.@/*?-]*[\w+=,.@*?-]", name, re.ASCII) or (
            kind == "root" and slash
        ):
            raise ValueError(f'is "{text}", which does not end in a name that IAM allows, {_EXAMPLE}')
        if kind == "assumed-role" and name.count("/") != 1:
            raise ValueError(f'is "{text}", but must name one role and its sessions: assumed-role/ROLE/SESSION')
        if kind == "role" and "/" in name:
            if "*" in name or "?" in name:
                # Without its path the pattern would allow more than it says.
                raise ValueError(
                    f'is "{text}", but STS does not tell the path of a role: name the role without "*" and "?", or'
                    " leave the path out"
                )
            name = name.rpartition("/")[2]
            text = f"arn:{match['partition']}:iam::{match['account']}:role/{name}"
        return cls(match["partition"], text)

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts = {"*": "[^/]*", "?": "[^/]"}
        return re.compile("".join(parts.get(character, re.escape(character)) for character in self.text))

    def matches(self, principal: Principal) -> bool:
        """Whether the rule is about this principal."""
        by_session = ":assumed-role/" in self.text
        return self._regex.fullmatch(principal.arn if by_session else principal.canonical) is not None


class Policy:
    """Rules, looked up by database user: what no rule allows is refused.

    Parameters: `rules`, each a principal's pattern and the database users whom it may log in as.
    """

    def __init__(self, rules: Iterable[tuple[PrincipalPattern, Sequence[str]]]) -> None:
        by_user: dict[str, list[PrincipalPattern]] = {}
        for pattern, users in rules:
            for user in users:
                by_user.setdefault(user, []).append(pattern)
        self._by_user: Mapping[str, list[PrincipalPattern]] = by_user

    @property
    def users(self) -> Iterable[str]:
        """Every database user that a rule names."""
        return self._by_user.keys()

    def allows(self, principal: Principal, user: str) -> bool:
        """Whether `principal` may log in as the database user `user`."""
        return any(pattern.matches(principal) for pattern in self._by_user.get(user, ()))
