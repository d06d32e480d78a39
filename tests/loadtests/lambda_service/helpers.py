"""What the tests of the Lambda service share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tidegate_load.lambda_service import LambdaServiceProcess, client

FUNCTIONS = Path(__file__).with_name("functions")


def eventually(condition: Callable[[], object], what: str) -> None:
    """Poll until `condition` holds; fails after a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"still not so: {what}"
        time.sleep(0.01)


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended; a zombie has, its parent is only late."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Service:
    """A running service and a boto3 client for it.

    Parameters: `handlers`, `{function name: module.handler}` below functions/; more as for LambdaServiceProcess.
    """

    def __init__(self, handlers: dict[str, str], **settings: Any) -> None:
        code = {name: f"{FUNCTIONS}:{handler}" for name, handler in handlers.items()}
        self.process = LambdaServiceProcess(code, **{"concurrency": 32, "timeout": 60, "init_timeout": 60} | settings)
        self._threads = ThreadPoolExecutor(max_workers=32)

    def __enter__(self) -> Self:
        self.process.__enter__()
        self.boto = client(self.process.endpoint, max_pool_connections=32, read_timeout=60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.__exit__(kind, error, trace)
        self._threads.shutdown()
        self.boto.close()

    def invoke(self, function: str, **event: Any) -> Invoked:
        """Invoke synchronously and decode the answer."""
        return Invoked(self.boto.invoke(FunctionName=function, Payload=json.dumps(event)))

    def begin(self, function: str, **event: Any) -> Future[Invoked]:
        """Invoke in a thread."""
        return self._threads.submit(self.invoke, function, **event)

    def stats(self, function: str) -> dict[str, int]:
        """The function's counts."""
        return self.process.stats()[function]

    def descendants(self) -> list[psutil.Process]:
        """Every process below the service."""
        return psutil.Process(self.process.pid).children(recursive=True)


class Invoked:
    """What boto3 returned for one invocation."""

    def __init__(self, response: dict[str, Any]) -> None:
        self.status: int = response["StatusCode"]
        self.headers: dict[str, str] = response["ResponseMetadata"]["HTTPHeaders"]
        self.error: str | None = response.get("FunctionError")
        with response["Payload"] as stream:
            self.payload: Any = json.loads(stream.read())

    @property
    def cold_start(self) -> bool:
        """Whether an environment was started for it."""
        return {"1": True, "0": False}[self.headers["x-tidegate-cold-start"]]
