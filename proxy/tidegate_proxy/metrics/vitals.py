"""How the process itself is: processor time, and how late its event loop is. And how available the targets are."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable

from tidegate_proxy.metrics.histogram import add
from tidegate_proxy.targets.health import TargetHealth, TargetRole, TargetState

TRY_EVERY = 0.1
"""Seconds between two looks at the event loop's punctuality."""

_CPU_EVERY = 10.0

LOOKS = 60
"""Looks at the targets that are remembered, one in a second."""


class Vitals:
    """Looks at the process while it runs. Made and started within a running event loop.

    `lags`, how late it was, in buckets as in `core.statistics`, and `lag`, all of that in seconds; `cpu_percent` of one
    processor, over the latest ten seconds.
    """

    def __init__(self) -> None:
        self.lags: list[int] = []
        self.lag = 0.0
        self.cpu_percent = 0.0
        self._cpu = (time.monotonic(), time.process_time())
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look from now on."""
        due = time.monotonic() + TRY_EVERY
        self._timer = asyncio.get_running_loop().call_later(TRY_EVERY, self._look, due)

    def stop(self) -> None:
        """Look no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self, due: float) -> None:
        now = time.monotonic()
        # A timer of the event loop is as exact as a millisecond, and may be early by less than that.
        late = max(0.0, now - due)
        self.lag += late
        add(self.lags, late)
        then, used = self._cpu
        if now - then >= _CPU_EVERY:
            self._cpu = (now, time.process_time())
            self.cpu_percent = 100 * (self._cpu[1] - used) / (now - then)
        self.start()


class Availability:
    """In which part of the last minute some target of each role was available; and how often there was a new writer.

    `failovers`: how often the writer of some databases was another one than before.
    """

    def __init__(self) -> None:
        self.failovers = 0
        self._writers: dict[tuple[str, ...], tuple[str, int]] = {}
        self._looks: dict[str, deque[bool]] = {}

    def look(self, targets: Iterable[TargetHealth]) -> None:
        """See how they are; called every second."""
        roles: dict[str, bool] = {}
        for target in targets:
            if target.role is TargetRole.READ_WRITE and target.state is TargetState.AVAILABLE:
                writer = (target.host, target.port)
                if self._writers.setdefault(target.databases, writer) != writer:
                    self._writers[target.databases] = writer
                    self.failovers += 1
            available = target.state is TargetState.AVAILABLE
            roles[target.role.value] = roles.get(target.role.value, False) or available
        for role in roles.keys() | self._looks.keys():
            # While nobody has this role, which somebody had, it is not available; that there is nobody of unknown role
            # is as it should be.
            if role not in roles and role == TargetRole.UNKNOWN:
                del self._looks[role]
            else:
                self._looks.setdefault(role, deque(maxlen=LOOKS)).append(roles.get(role, False))

    def percentages(self) -> dict[str, float]:
        """Per cent by role."""
        return {role: 100 * sum(looks) / len(looks) for role, looks in self._looks.items()}
