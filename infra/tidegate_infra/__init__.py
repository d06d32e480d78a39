"""Tidegate's infrastructure as CDK constructs."""

from tidegate_infra import node as node  # first: it says where CDK finds Node

__all__ = ["node"]
