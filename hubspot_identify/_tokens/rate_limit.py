"""The rate limit: calls in any 10 seconds, counted in the shared cache for all processes and hosts together."""

from __future__ import annotations

from collections.abc import Callable

from .entries import CLOCK_SKEW
from .store import Store

WINDOW = 10  # seconds in which HubSpot counts calls


class RateLimit:
    """The rate limit of one account. There is one counter for each second.

    The counters of the current second and of the ten before it are added up, because any 10 s touch eleven seconds.

    Args:
        limit: average calls per second; ten times as many are allowed in any 10 s.
        prefix: of the cache keys.
        store: where the calls are counted.
        now: seconds since the epoch.
    """

    def __init__(self, limit: int, prefix: str, store: Store, now: Callable[[], float]) -> None:
        self._limit = limit
        self._prefix = prefix
        self._store = store
        self._now = now

    def allows_call(self, *, for_changes: bool = False) -> bool:
        """Count a call and return ``True``, unless the window is full.

        Args:
            for_changes: whether the call only refreshes a valid token because of changed names or context. These calls
                get a tenth of the limit, so that accounts that edit their names do not delay other visitors' tokens.
        """
        if for_changes and not self._count("changes", self._limit):
            return False
        allowed = self._count("calls", self._limit * WINDOW)
        if allowed is None:  # nothing is shared: each process makes one call per second
            return self._store.add_locally(f"{self._prefix}:alone", 1, 1.0)
        return allowed

    def _count(self, name: str, budget: int) -> bool | None:
        """Count a call if it is within the budget, and return whether it is; ``None`` if the cache cannot count."""
        second = int(self._now())
        current, *earlier = (f"{self._prefix}:{name}:{second - age}" for age in range(WINDOW + 1))
        counted = self._store.get_many([current, *earlier])
        if sum(counted.values()) >= budget:
            return False
        number = self._store.increase(current, WINDOW + CLOCK_SKEW)
        return None if number is None else sum(counted.get(key, 0) for key in earlier) + number <= budget
