"""Alarms on the proxy: what each one watches, why, and what to do."""

from tidegate_infra.alarms.alarms import TidegateAlarms
from tidegate_infra.alarms.thresholds import Thresholds

__all__ = ["Thresholds", "TidegateAlarms"]
