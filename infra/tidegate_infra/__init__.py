"""Tidegate's infrastructure as CDK constructs."""
