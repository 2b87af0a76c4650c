"""The rate limit: calls in any 10 seconds, counted in the shared cache for all processes and hosts together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .entries import CLOCK_SKEW
from .store import Store

WINDOW = 10  # seconds in which HubSpot counts calls


class RateLimit:
    """The rate limit of one account. There is one counter for each second.

    The current second and the nine before it contain at most ten times as many calls as the limit. Any 10 s touch
    eleven seconds, which contain at most eleven times as many: 187 for a limit of 17, of HubSpot's 190. A call is
    counted when it begins. If the later calls of a rush reach HubSpot faster than the first ones, more of them arrive
    within 10 s.

    Args:
        limit: average calls per second.
        prefix: of the cache keys.
        store: where the calls are counted.
        now: seconds since the epoch.
    """

    def __init__(self, limit: int, prefix: str, store: Store, now: Callable[[], float]) -> None:
        self._limit = limit
        self._prefix = prefix
        self._store = store
        self._now = now
        self._lock = threading.Lock()
        self._full_until = 0.0  # on the monotonic clock

    @property
    def full_for(self) -> float:
        """Seconds until calls are allowed again, as far as this process knows; 0 if they may be allowed now."""
        return max(0.0, self._full_until - time.monotonic())

    def allows_call(self, *, for_changes: bool = False) -> bool:
        """Count a call and return ``True``, unless the window is full.

        Args:
            for_changes: whether the call only refreshes a valid token because of changed names or context. These calls
                get a tenth of the limit, so that accounts that edit their names do not delay other visitors' tokens.
        """
        if for_changes and self._count("changes", self._limit / WINDOW) != 0:
            return False
        full_for = self._count("calls", self._limit)
        if full_for is None:
            return self._allows_call_alone()
        self._full_until = time.monotonic() + full_for
        return full_for == 0

    def _allows_call_alone(self) -> bool:
        """Allow one call a second to this process, because the cache cannot count."""
        with self._lock:
            if self.full_for:
                return False
            self._full_until = time.monotonic() + 1.0
            return True

    def _count(self, name: str, limit: float) -> float | None:
        """Count a call if there is room for it.

        Returns:
            0 if the call was counted, the seconds until there is room, or ``None`` if the cache cannot count.
        """
        now = self._now()
        second = int(now)
        keys = [f"{self._prefix}:{name}:{second - age}" for age in range(WINDOW + 1)]
        counted = self._store.get_many(keys)
        calls = [counted.get(key, 0) for key in keys]
        if has_room(calls, limit):
            number = self._store.increase(keys[0], WINDOW + CLOCK_SKEW)
            if number is None:
                return None
            calls[0] = number - 1
            if has_room(calls, limit):
                return 0
            self._store.increase(keys[0], WINDOW + CLOCK_SKEW, -1)  # other processes were faster
        while not has_room(calls, limit):
            calls = [0, *calls[:-1]]
            second += 1
        return second - now


def has_room(calls: list[int], limit: float) -> bool:
    """Return whether one more call is within the limit, given the calls in each second, the current one first."""
    return sum(calls[:WINDOW]) < limit * WINDOW and sum(calls) < limit * (WINDOW + 1)
