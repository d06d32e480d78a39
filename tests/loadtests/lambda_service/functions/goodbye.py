"""A function that would write a file if it were ended politely."""

import atexit
import os
import signal
import sys
from pathlib import Path
from typing import Any


def _write(*_: object) -> None:
    Path(os.environ["GOODBYE"]).touch()


atexit.register(_write)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda *_: sys.exit(0))


def handler(event: Any, context: Any) -> int:
    """The process id."""
    return os.getpid()
