"""Proxies with a configuration of the test's own, and Secrets Manager, played by moto on loopback."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from moto.server import ThreadedMotoServer
from psycopg import sql
from tests.support.postgres import Database
from tests.support.proxy import ProxyProcess

REGION = "eu-west-1"


class Secrets:
    """Secrets Manager as an administrator uses it; remembers every password, none of which may get into a log."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.passwords: set[str] = set()

    def password(self) -> str:
        """A new password."""
        password = f"Pw-{uuid.uuid4().hex}"
        self.passwords.add(password)
        return password

    def create(self, value: str | dict[str, Any]) -> str:
        """Make a secret. Returns: its ARN."""
        text = value if isinstance(value, str) else json.dumps(value)
        return str(self.client.create_secret(Name=f"test/{uuid.uuid4().hex}", SecretString=text)["ARN"])

    def put(self, arn: str, value: str | dict[str, Any], stage: str = "AWSCURRENT") -> str:
        """Add a version with this label. Returns: its id."""
        text = value if isinstance(value, str) else json.dumps(value)
        token = uuid.uuid4().hex + "0" * 4
        self.client.put_secret_value(SecretId=arn, SecretString=text, VersionStages=[stage], ClientRequestToken=token)
        return token

    def finish(self, arn: str, version: str) -> None:
        """Move AWSCURRENT to this version, as the last step of a rotation does."""
        stages = self.client.describe_secret(SecretId=arn)["VersionIdsToStages"]
        before = next(key for key, labels in stages.items() if "AWSCURRENT" in labels)
        self.client.update_secret_version_stage(
            SecretId=arn, VersionStage="AWSCURRENT", MoveToVersionId=version, RemoveFromVersionId=before
        )
        self.client.update_secret_version_stage(SecretId=arn, VersionStage="AWSPENDING", RemoveFromVersionId=version)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that are nobody's, for this process and the proxies that it starts."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret-key",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def secrets(aws: None, moto_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Secrets]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", moto_server)
    client = boto3.client("secretsmanager", region_name=REGION)
    yield Secrets(client)
    client.close()


Serve = Callable[..., ProxyProcess]


@pytest.fixture
def serve(tmp_path: Path, database: Database) -> Iterator[Serve]:
    """Start a proxy: `serve(general, databases={"name": {...}}, users={...})`. Its log may show none of `secret`."""
    started: list[tuple[ProxyProcess, set[str]]] = []

    def start(
        *,
        databases: dict[str, dict[str, Any]] | None = None,
        users: dict[str, dict[str, Any]] | None = None,
        hidden: set[str] | None = None,
        **general: Any,
    ) -> ProxyProcess:
        lines = [f"{key} = {json.dumps(value)}" for key, value in ({"listen_port": 0} | general).items()]
        at_home = {"host": database.server.host, "port": database.server.port, "tls": "disable"}
        for kind, tables in (("databases", databases or {database.name: {}}), ("users", users or {})):
            for name, table in tables.items():
                lines.append(f"[{kind}.{json.dumps(name)}]")
                values = (at_home | table) if kind == "databases" else table
                lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        folder = tmp_path / f"proxy{len(started)}"
        folder.mkdir()
        proxy = ProxyProcess(folder, database, "\n".join(lines) + "\n")
        started.append((proxy, hidden if hidden is not None else set()))
        proxy.wait_until_listening()
        return proxy

    with contextlib.ExitStack() as stack:
        yield start
        for proxy, hidden in started:
            stack.callback(no_secret_in_log, proxy, hidden)
            stack.callback(proxy.close)


def no_secret_in_log(proxy: ProxyProcess, hidden: set[str]) -> None:
    """No password, verifier, hash or key of AWS gets into a log."""
    for text in (*hidden, "test-secret-key", "SCRAM-SHA-256$", "X-Amz-Signature"):
        assert text not in proxy.log


@pytest.fixture
def role(database: Database) -> Iterator[Callable[..., str]]:
    """Make roles that are dropped after the test: `role(password, "VALID UNTIL '2001-01-01'")`. Returns: the name."""
    made: list[str] = []

    def make(password: str, options: str = "") -> str:
        name = f"role_{uuid.uuid4().hex[:12]}"
        with database.server.connect() as conn:
            conn.execute(
                sql.SQL("CREATE ROLE {} PASSWORD {} " + (options or "LOGIN")).format(sql.Identifier(name), password)
            )
            conn.execute(sql.SQL("GRANT ALL ON SCHEMA public TO {}").format(sql.Identifier(name)))
        made.append(name)
        return name

    yield make
    with database.server.connect() as conn:
        for name in made:
            # With the wait: a session's temporary tables are its role's until it is gone.
            conn.execute("SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE usename = %s", [name])
            conn.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
            conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def set_password(database: Database, user: str, password: str) -> None:
    """What a rotation does in the database."""
    with database.server.connect() as conn:
        conn.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(user), password))


def refusal(proxy: ProxyProcess, **keywords: Any) -> str:
    """Log in, fail, and return the whole text of the error."""
    with pytest.raises(psycopg.OperationalError) as caught:
        proxy.connect(**keywords)
    return str(caught.value)
