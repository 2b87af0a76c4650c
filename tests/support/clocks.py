"""Time as a test wants it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

SLACK = 0.3  # seconds by which a waiter may be late
GENEROUS_TIMEOUT = 30.0  # seconds; only a test that fails waits for so long


class Clock:
    """A clock that moves when it is told to. Stands in for a function such as ``time.time``, or for ``time`` itself."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    time = monotonic = __call__

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def once_in_time(attempt: Callable[[], None]) -> None:
    """Make an attempt that asserts how long something takes. A busy machine only ever makes it longer, so once of
    five times is enough."""
    for _ in range(4):
        with suppress(AssertionError):
            return attempt()
    return attempt()
