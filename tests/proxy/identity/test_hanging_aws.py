"""A Secrets Manager that accepts and never answers holds up what needs a secret, and nothing else."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import pytest

from tidegate_proxy.credentials.aws import Aws, AwsError


@pytest.mark.usefixtures("aws")
def test_tokens_do_not_wait_behind_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        aws = Aws("eu-west-1")
        with closing(aws), socket.create_server(("127.0.0.1", 0), backlog=32) as silent:
            monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", f"http://127.0.0.1:{silent.getsockname()[1]}")
            reads = [asyncio.create_task(aws.secret_values(f"secret{n}", ["AWSCURRENT"])) for n in range(8)]
            # At least one of them is under way.
            (await asyncio.to_thread(silent.accept))[0].close()
            token = await aws.rds_token("db.example.com", 5432, "orders")
            assert "Action=connect" in token
            assert not any(read.done() for read in reads)
        # Nobody listens any more, so they end soon.
        for outcome in await asyncio.gather(*reads, return_exceptions=True):
            assert isinstance(outcome, (AwsError, asyncio.CancelledError))

    asyncio.run(ask())
