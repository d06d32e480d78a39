"""Names of AWS's resources in settings: regions and secrets."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from tidegate_proxy.settings.regions import is_partition, region

_SECRET_NAME = re.compile(r"[A-Za-z0-9/_+=.@!-]{1,512}")
"""What Secrets Manager allows in a name, and the exclamation mark of the names that RDS itself gives."""


def check_region(name: str) -> str:
    """Pass on the name of an AWS region. Raises: UnknownRegionError, a ValueError."""
    return region(name).name


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
    if not is_partition(parts[1]):
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
