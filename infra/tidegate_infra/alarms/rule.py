"""What an alarm is before it is one in CloudWatch."""

from __future__ import annotations

from dataclasses import dataclass

from aws_cdk import aws_cloudwatch as cloudwatch


@dataclass(frozen=True)
class Rule:
    """One alarm.

    Fields: `name`, its construct's id; `page`, its runbook page, without ending; `reason`, what has happened, and
    `remedy`, the first thing to do, each a sentence; `metric`; `threshold`, with `below` for alarms that ring under it;
    `periods` of which `of` are looked at; `missing`, what no data means; `urgent`, whether clients suffer.
    """

    name: str
    page: str
    reason: str
    remedy: str
    metric: cloudwatch.IMetric
    threshold: float
    below: bool = False
    periods: int = 1
    of: int | None = None
    missing: cloudwatch.TreatMissingData = cloudwatch.TreatMissingData.NOT_BREACHING
    urgent: bool = False
