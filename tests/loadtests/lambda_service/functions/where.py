"""A function that says in which process it ran, and as what."""

import os
import signal
import time
from typing import Any


def farewell(*_: object) -> None:
    print("farewell", flush=True)  # noqa: T201


signal.signal(signal.SIGTERM, farewell)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """`event["sleep"]`: seconds."""
    time.sleep(event.get("sleep", 0))
    return {"pid": os.getpid(), "parent": os.getppid(), "type": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]}
