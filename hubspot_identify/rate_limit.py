"""The calls of one second, counted in the shared cache for all processes and hosts together."""

from __future__ import annotations

from collections.abc import Callable

from .store import Store
from .tokens import CLOCK_SKEW

#: The counter is ``second * SECOND + calls in it``: one number, because only a number can be increased atomically.
SECOND = 1_000_000
WINDOW_TTL = 60.0


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

    def allows_call(self) -> bool:
        """Take one of this second's calls, if there is one left."""
        second = int(self._now())
        key = f"{self._key}:rate"
        for _ in range(2):
            number = self._store.increase(key)
            if self._store.is_down:  # nothing is shared: one call per second in each process
                return self._store.add(f"{self._key}:alone", 1, 1.0)
            if number is None:
                if self._store.add(key, second * SECOND + 1, WINDOW_TTL):
                    return True
                continue
            window, calls = divmod(number, SECOND)
            if second <= window <= second + CLOCK_SKEW:  # of this second, or of a host whose clock is ahead
                return calls <= self._limit
            if not self._begin_window(key, second):
                return False
        return False

    def _begin_window(self, key: str, second: int) -> bool:
        """Replace the counter of an old second with this one's. Returns ``False`` if another process is doing so."""
        if not self._store.add(f"{key}:turn", 1, 2):
            return False
        number = self._store.get(key)
        if not isinstance(number, int) or not second <= number // SECOND <= second + CLOCK_SKEW:
            self._store.set(key, second * SECOND, WINDOW_TTL)
        self._store.delete(f"{key}:turn")
        return True
