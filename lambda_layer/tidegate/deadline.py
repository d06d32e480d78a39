"""How a wait for the server is bounded: decisions that blocking and asyncio connections share.

psycopg waits by driving a generator, which it also wakes at intervals. A generator around it looks at the clock at
each of those, so no thread and no timer is needed, and nothing is sent.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from time import monotonic
from typing import TypeVar

from psycopg.waiting import Ready, Wait

from . import metrics
from .errors import DeadlineExceeded

R = TypeVar("R")
Protocol = Generator[Wait, Ready | int, R]
"""psycopg's protocol code: yields what it waits for, is sent what is ready, returns its result."""

LONGEST_TICK = 0.1
"""Seconds between looks at the clock, at most; psycopg's own interval for noticing Ctrl-C."""


class Expired(Exception):  # noqa: N818 -- not an error yet: the statement is cancelled first
    """The time is over, and the protocol code has not ended."""


def bounded(protocol: Protocol[R], until: float) -> Protocol[R]:
    """`protocol`, left as it stands with `Expired` at a time on time.monotonic()'s clock; it can be driven on."""
    try:
        wanted = next(protocol)
        while True:
            wanted = protocol.send((yield wanted))
            # After the step, so that what has arrived by then still counts.
            if monotonic() >= until:
                raise Expired
    except StopIteration as stop:
        result: R = stop.value
        return result


def tick(remaining: float) -> float:
    """The interval of looks at the clock, in seconds, such that one of them falls on the end of `remaining`."""
    return remaining / math.ceil(remaining / LONGEST_TICK) if remaining > LONGEST_TICK else max(0.0, remaining)


def end_of_wait(until: float, grace: float, *, ending: bool) -> float:
    """Until when what is sent now may run; both on time.monotonic()'s clock.

    Parameters: `until`, the deadline; `grace`, seconds after it for whatever ends a transaction; `ending`, whether
    this does.
    Raises: DeadlineExceeded, before anything is sent, if the time is over.
    """
    now = monotonic()
    if now < until:
        return until
    left = until + grace - now
    if ending and left > 0:
        return now + left / 2  # the other half is for giving up
    metrics.count("DeadlineExceeded")
    raise DeadlineExceeded("the invocation's deadline has passed: the statement was not sent")


def cancelled() -> DeadlineExceeded:
    """What is raised once the server has confirmed that a statement was cancelled."""
    metrics.count("DeadlineExceeded")
    return DeadlineExceeded("a statement still ran at the invocation's deadline: it was cancelled on the server")


def given_up() -> DeadlineExceeded:
    """What is raised when the server could not be reached for the cancel, or did not obey in time."""
    metrics.count("DeadlineExceeded")
    return DeadlineExceeded(
        "a statement had no answer at the invocation's deadline, and the server did not confirm its cancel in time:"
        " the connection was given up, and what it did outside a transaction may have taken effect"
    )
