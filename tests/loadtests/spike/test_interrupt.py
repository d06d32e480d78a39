"""Ctrl-C is acted on where it is safe, and only there."""

from __future__ import annotations

import os
import signal

import pytest

from tidegate_load.spike.interrupt import InterruptedRunError, Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_raised_at_the_next_check_and_not_before(number: signal.Signals) -> None:
    with Interruption() as interruption:
        interruption.check()
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGINT)  # pressed again, in the middle of something
        with pytest.raises(InterruptedRunError) as caught:
            interruption.check()
        assert caught.value.signal == number


def test_a_pause_ends_when_the_signal_comes() -> None:
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(InterruptedRunError):
            interruption.wait(3600)


def test_the_handlers_of_before_are_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interruption():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
