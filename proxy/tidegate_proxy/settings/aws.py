"""Names of AWS's resources in settings: regions and secrets."""

from __future__ import annotations

import difflib
import re
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator

_SECRET_NAME = re.compile(r"[A-Za-z0-9/_+=.@!-]{1,512}")
"""What Secrets Manager allows in a name, and the exclamation mark of the names that RDS itself gives."""


@cache
def _partitions() -> list[dict[str, Any]]:
    # Here and not above: who does without AWS shall not wait for botocore.
    from botocore.loaders import Loader

    partitions: list[dict[str, Any]] = Loader().load_data("partitions")["partitions"]
    return partitions


def check_region(name: str) -> str:
    """Pass on the name of an AWS region. Raises: ValueError.

    A region that is newer than the installed botocore is accepted by the form of its name.
    """
    known = {region for partition in _partitions() for region in partition["regions"] if "global" not in region}
    if name in known:
        return name
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.7)
    if close:
        raise ValueError(f'is no AWS region: did you mean "{close[0]}"?')
    if not any(re.fullmatch(partition["regionRegex"].strip("^$"), name) for partition in _partitions()):
        raise ValueError('is no AWS region; one is, for example, "eu-west-1"')
    return name


def check_secret(text: str) -> str:
    """Pass on the name or the ARN of a secret in Secrets Manager. Raises: ValueError with what is wrong in it."""
    if not text.startswith("arn:"):
        if not _SECRET_NAME.fullmatch(text):
            raise ValueError(
                "must be the name or the ARN of a secret in Secrets Manager: letters, digits and /_+=.@!- only, "
                "for example arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop/db-AbCdEf"
            )
        return text
    parts = text.split(":", 6)
    if len(parts) < 7 or parts[2] != "secretsmanager" or parts[5] != "secret":
        raise ValueError(
            "is no ARN of a secret: it must have the form arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME"
        )
    if parts[1] not in {partition["id"] for partition in _partitions()}:
        raise ValueError(f'is no ARN of a secret: "{parts[1]}" is no partition of AWS; most ARNs begin with arn:aws:')
    try:
        check_region(parts[3])
    except ValueError as error:
        raise ValueError(f'is no ARN of a secret: "{parts[3]}" {error}') from None
    if not re.fullmatch(r"\d{12}", parts[4]):
        raise ValueError(f'is no ARN of a secret: the account "{parts[4]}" must have 12 digits')
    if not _SECRET_NAME.fullmatch(parts[6]):
        raise ValueError("is no ARN of a secret: the secret's name has characters that Secrets Manager does not allow")
    return text


def region_of(secret: str) -> str | None:
    """The region that a secret's ARN says; None for a name."""
    return secret.split(":")[3] if secret.startswith("arn:") else None


RegionName = Annotated[str, AfterValidator(check_region)]
SecretName = Annotated[str, AfterValidator(check_secret)]
