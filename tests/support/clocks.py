"""Clocks and time limits for tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

SLACK = 0.3  # seconds by which a wait may exceed its limit
GENEROUS_TIMEOUT = 30.0  # seconds; only a failing test waits this long


class Clock:
    """A clock that a test sets. It replaces a function such as ``time.time`` or the module ``time``."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now
        self._set_back_by = 0.0

    def __call__(self) -> float:
        return self.now

    time = __call__

    def monotonic(self) -> float:
        return self.now + self._set_back_by

    def pass_by(self, seconds: float) -> None:
        self.now += seconds

    sleep = pass_by

    def set_back(self, seconds: float) -> None:
        """Set the wall clock back. The monotonic clock continues."""
        self.now -= seconds
        self._set_back_by += seconds


def once_in_time(attempt: Callable[[], None]) -> None:
    """Call a function that asserts how long something takes, at most five times, until it succeeds.

    A busy machine only makes it take longer, so one success is enough.
    """
    for _ in range(4):
        with suppress(AssertionError):
            return attempt()
    return attempt()


def wait_until(condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds, and return whether it does."""
    end = time.monotonic() + GENEROUS_TIMEOUT
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()
