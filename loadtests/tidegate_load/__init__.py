"""Tidegate's load tests: a local Lambda service, the Locust spike, and its report."""
