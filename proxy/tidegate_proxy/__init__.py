"""Tidegate's proxy: many short-lived clients share few PostgreSQL connections, transaction by transaction."""

__version__ = "0.1.0"
