"""The service as a subprocess, for tests, the demo and load tests."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tidegate_load.clean_environment import clean_environment

START_TIMEOUT = 30.0
"""Seconds that the service may take until it is ready."""

_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The service is on this machine, whatever HTTP proxy the shell names."""


class LambdaServiceStartError(RuntimeError):
    """The service did not come up; the message is what it said on stderr."""


class LambdaServiceProcess:
    """`tidegate-lambda serve` in a process of its own; a context manager, or `start` and `close`.

    Parameters
    - `functions`: `{name: "DIRECTORY:module.handler"}`.
    - `env`: environment variables of the functions.
    - `timeout`, `idle_timeout`, `init_timeout`: seconds.
    - `memory`: MB, only reported to the functions.
    - `concurrency`: invocations at once, per function.
    - `init_concurrency`: environments in INIT at once; None leaves it to the service.
    - `provisioned`, `workers`, `extension`: as for `Function`.
    - `fresh`: new interpreters instead of forks. `interpreter`: which one, if not this.
    - `log_dir`: for the functions' logs; None lets the service use a temporary folder.
    """

    def __init__(
        self,
        functions: Mapping[str, str],
        *,
        env: Mapping[str, str] | None = None,
        timeout: float = 3.0,
        memory: int = 128,
        concurrency: int = 1000,
        idle_timeout: float = 300.0,
        init_timeout: float = 10.0,
        init_concurrency: int | None = None,
        provisioned: int = 0,
        workers: int = 1,
        extension: bool = False,
        fresh: bool = False,
        interpreter: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        log_dir: Path | None = None,
    ) -> None:
        arguments: list[str] = []
        for name, code in functions.items():
            arguments += ["--function", f"{name}={code}"]
        # Not as arguments: a command line is there for every user of the machine to read.
        arguments += ["--env-json", "-"]
        self._env = json.dumps(dict(env or {})).encode()
        options = {
            "--timeout": timeout,
            "--memory": memory,
            "--concurrency": concurrency,
            "--idle-timeout": idle_timeout,
            "--init-timeout": init_timeout,
            "--init-concurrency": init_concurrency,
            "--provisioned": provisioned,
            "--workers": workers,
            "--host": host,
            "--port": port,
            "--log-dir": log_dir,
            "--interpreter": interpreter,
        }
        for option, setting in options.items():
            if setting is not None:
                arguments += [option, str(setting)]
        if extension:
            arguments.append("--extension")
        if fresh:
            arguments.append("--fresh")
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = ""

    def start(self) -> Self:
        """Start the service and wait until it is ready. Raises: LambdaServiceStartError."""
        with tempfile.TemporaryFile() as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tidegate_load.lambda_service.cli", "serve", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=clean_environment(),
                start_new_session=True,  # Ctrl-C in the terminal is handled by who started us, in order
            )
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
                stdin.write(self._env)
            line = self._first_line()
            if not line.endswith(b"\n"):
                self.close()
                errors.seek(0)
                text = errors.read().decode(errors="replace").strip()
                raise LambdaServiceStartError(
                    text or f"the Lambda service was not ready in {START_TIMEOUT:.0f} seconds"
                )
        self.endpoint = json.loads(line)["endpoint"]
        return self

    @property
    def pid(self) -> int:
        """Process id of the service."""
        assert self._process is not None, "the service is not running"
        return self._process.pid

    def stats(self) -> dict[str, dict[str, int]]:
        """The counts of `GET /tidegate/stats`, per function."""
        with _DIRECTLY.open(f"{self.endpoint}/tidegate/stats", timeout=10) as response:
            stats: dict[str, dict[str, int]] = json.load(response)
            return stats

    def close(self) -> int | None:
        """Stop the service and all it started. Safe to call twice.

        Returns: its exit status, or None if it was not running.
        """
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()  # its zygote sees that, and ends the environments
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
        return process.returncode

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _first_line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        line = b""
        deadline = time.monotonic() + START_TIMEOUT
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n") and selector.select(max(0.0, deadline - time.monotonic())):
                chunk = os.read(self._process.stdout.fileno(), 4096)
                if not chunk:
                    break
                line += chunk
        return line


def client(endpoint: str, **config: Any) -> Any:
    """A boto3 Lambda client for a service, with credentials that nobody checks and no retries.

    Parameters: `endpoint`, a URL; `config`, more of botocore's Config, such as `read_timeout` in seconds.
    """
    import boto3
    from botocore.config import Config

    from .function import REGION

    return boto3.client(
        "lambda",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106 (it is not a secret)
        config=Config(retries={"total_max_attempts": 1}, proxies={}, **config),
    )
