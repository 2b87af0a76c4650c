"""The calls per second, counted in the shared cache for all processes and hosts together."""

from __future__ import annotations

from collections.abc import Callable

from .entries import CLOCK_SKEW
from .store import Store

#: The counter is ``window * WINDOW + calls in it``: one number, because only a number can be increased atomically.
WINDOW = 1_000_000
WINDOW_TTL = 60.0
#: In so many seconds, calls for changed names are as many as all calls in one second: a tenth of the rate limit.
CHANGES_WINDOW = 10


class RateLimit:
    """The rate limit of one account.

    Args:
        limit: calls per second.
        key: prefix of the cache keys.
        store: where the calls are counted.
        now: seconds since the epoch; another clock for tests.
    """

    def __init__(self, limit: int, key: str, store: Store, now: Callable[[], float]) -> None:
        self._limit = limit
        self._key = key
        self._store = store
        self._now = now

    def allows_call(self, *, for_changes: bool = False) -> bool:
        """Take one of this second's calls, if there is one left.

        Args:
            for_changes: whether the call only refreshes a valid token because of changed names or context. These calls
                get a small part, so that accounts that edit their names do not delay the tokens of other visitors.
        """
        if for_changes and (not self._count(f"{self._key}:changes", CHANGES_WINDOW) or self._store.is_down):
            return False
        return self._count(f"{self._key}:rate", 1)

    def _count(self, key: str, seconds: int) -> bool:
        """Count a call in the current window of so many seconds, and return whether it is within the limit."""
        current = int(self._now() / seconds)
        for _ in range(2):
            number = self._store.increase(key)
            if self._store.is_down:  # nothing is shared: one call per second in each process
                return self._store.add(f"{key}:alone", 1, 1.0)
            if number is None:
                if self._store.add(key, current * WINDOW + 1, WINDOW_TTL):
                    return True
                continue
            window, calls = divmod(number, WINDOW)
            if _is_current(window, current, seconds):
                return calls <= self._limit
            if not self._begin_window(key, current, seconds):
                return False
        return False

    def _begin_window(self, key: str, current: int, seconds: int) -> bool:
        """Replace the counter of an old window with this one's. Returns ``False`` if another process is doing so."""
        if not self._store.add(f"{key}:turn", 1, 2):
            return False
        number = self._store.get(key)
        if not isinstance(number, int) or not _is_current(number // WINDOW, current, seconds):
            self._store.set(key, current * WINDOW, WINDOW_TTL)
        self._store.delete(f"{key}:turn")
        return True


def _is_current(window: int, current: int, seconds: int) -> bool:
    """Return whether a window is the current one, or that of a host whose clock is ahead."""
    return current <= window <= current + CLOCK_SKEW / seconds
