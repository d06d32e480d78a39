"""Clients with AWS credentials, and the STS stand-in that knows them, as a process of its own."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from tidegate import auth
from tidegate.credentials import Credentials
from tidegate_load.clean_environment import clean_environment
from tidegate_load.sts.signature import Key

ACCOUNT = "123456789012"
REGION = "eu-west-1"
PROXY_ID = "bench"
PRINCIPAL = f"arn:aws:iam::{ACCOUNT}:role/bench"
STS_DELAY = 0.03
"""Seconds that the stand-in takes for each answer: about what STS takes within a region."""


class Identities:
    """Sessions of one role, each with its own access key, while entered.

    Parameters: `folder`, for the stand-in's keys; `count` of sessions. `url` is the stand-in's endpoint.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.url = ""
        self._folder = folder
        self._keys = [
            Key(
                f"ASIA{secrets.token_hex(8).upper()}",
                secrets.token_urlsafe(30),
                f"arn:aws:sts::{ACCOUNT}:assumed-role/bench/session{number}",
                # About as long as those of Lambda functions.
                secrets.token_urlsafe(700),
            )
            for number in range(count)
        ]
        self._process: subprocess.Popen[str] | None = None
        # The second of the latest tokens.
        self._latest = 0

    def __enter__(self) -> Self:
        file = self._folder / "keys.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps([asdict(key) for key in self._keys]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tidegate_load.sts", file, "--delay", str(STS_DELAY)],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()

    def tokens(self, count: int) -> list[str]:
        """A token of each of so many sessions, signed now, and none that was here before: waits for a new second."""
        # Within one second a session's tokens are all the same, and the proxy knows them.
        now = time.time()
        while int(now) == self._latest:
            time.sleep(int(now) + 1 - now)
            now = time.time()
        self._latest = int(now)
        return [
            auth.generate_token(
                PROXY_ID,
                REGION,
                credentials=Credentials(key.access_key, key.secret_key, key.session_token),
                now=now,
            )
            for key in self._keys[:count]
        ]
