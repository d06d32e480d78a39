"""Tidegate's Lambda layer: one PostgreSQL connection per execution environment, kept alive across invocations."""
