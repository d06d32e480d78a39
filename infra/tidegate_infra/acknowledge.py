"""Findings of cdk-nag's AwsSolutions rules that are meant to be so, each with its reason where it arises."""

from __future__ import annotations

from aws_cdk import Acknowledgment, Validations
from constructs import IConstruct


def acknowledge(construct: IConstruct, rule: str, reason: str) -> None:
    """Accept what `rule`, such as `AwsSolutions-ECS2`, finds in `construct` and below.

    Parameters: `reason`, which also goes into the template's metadata.
    """
    Validations.of(construct).acknowledge(Acknowledgment(id=f"AwsSolutions::{rule}", reason=reason))
