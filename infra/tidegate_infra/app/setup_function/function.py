"""Prepares the database: the user that functions log in as, and the table of the sample function. May run again."""

from __future__ import annotations

import json
import os
from typing import Any

import psycopg
from psycopg import sql

import tidegate

db = tidegate.connect()

TABLE = """
    CREATE TABLE IF NOT EXISTS counter (id int PRIMARY KEY, value bigint NOT NULL DEFAULT 0);
    INSERT INTO counter (id) SELECT generate_series(1, 1000) ON CONFLICT DO NOTHING;
"""


def prepare(conn: psycopg.Connection[Any], user: str, password: str) -> None:
    """Make the user, or give it this password, and the table; let the user use the table."""
    # The server gets, and may log, a verifier, never the password itself.
    verifier = conn.pgconn.encrypt_password(password.encode(), user.encode(), b"scram-sha-256").decode()
    name = sql.Identifier(user)
    if conn.execute("SELECT FROM pg_roles WHERE rolname = %s", (user,)).fetchone() is None:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
    conn.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(name, sql.Literal(verifier)))
    conn.execute(TABLE)
    conn.execute(sql.SQL("GRANT SELECT, UPDATE ON counter TO {}").format(name))


def read_secret(arn: str) -> tuple[str, str]:
    """User and password of a secret in RDS's shape."""
    import boto3  # Lambda's Python brings it

    found = json.loads(boto3.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"])
    return found["username"], found["password"]


@db.handler
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    user, password = read_secret(os.environ["USER_SECRET_ARN"])
    db.transaction(prepare, user, password)
    return {"prepared": user}
