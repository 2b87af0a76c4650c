"""The site's cache, guarded: its trouble never reaches a visitor.

A cache that raises or takes more than a second is a miss and then left alone for some seconds, while a small store
of this process serves. What could not be written to the cache stays in that store, so no token is lost.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from django.core.cache import InvalidCacheBackendError, caches
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation

from .._compat import fixed_cache_keys
from ..exceptions import ConfigurationError
from ..logs import log_throttled
from .entries import PREFIX
from .per_process import PerProcess

logger = logging.getLogger(__name__)

PAUSE = 5.0  # seconds for which a cache in trouble is not asked
SLOW = 1.0  # seconds after which an answer counts as trouble
LOCAL_ENTRIES = 1000

Answer = TypeVar("Answer")


class Store:
    """One cache alias as this process sees it. All methods answer; none raises for the cache's sake."""

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._local = LocalStore()
        self._down_until = 0.0
        self._answered_at = math.inf
        self._this_thread = _ThisThread()

    @property
    def is_down(self) -> bool:
        """Whether the cache is bypassed at the moment."""
        return self._this_thread.bypasses_cache or time.monotonic() < self._down_until

    def made_keys(self, *keys: str) -> dict[str, str]:
        """Return the keys as the cache makes them on this thread, or nothing if its ``KEY_FUNCTION`` fails."""
        try:
            return {key: caches[self._alias].make_key(key) for key in keys}
        except Exception:  # noqa: BLE001 - it is the site's function; the operations of the cache report it
            return {}

    @contextmanager
    def using_keys(self, made: Mapping[str, str]) -> Iterator[None]:
        """Within the block, use keys that another thread made. If the cache can't, bypass it on this thread."""
        with fixed_cache_keys(caches[self._alias], made, PREFIX) as succeeded:
            if not succeeded:
                log_throttled(
                    logger,
                    logging.ERROR,
                    "The cache %r does not find in a request what a background thread stores, because its make_key() "
                    "depends on the thread. Use a KEY_FUNCTION instead, or another cache for "
                    "HUBSPOT_IDENTIFY['CACHE']. Until then, each process keeps its own tokens.",
                    self._alias,
                    reason=self._alias,
                    every=math.inf,
                )
            self._this_thread.bypasses_cache = not succeeded
            try:
                yield
            finally:
                self._this_thread.bypasses_cache = False

    def get(self, key: str) -> Any:
        """The value of a key, or ``None``. One operation of the cache."""
        value = self._ask("get", lambda cache: cache.get(key), None)
        return self._local.get(key) if value is None else value

    def set(self, key: str, value: Any, ttl: float) -> None:
        """Keep a value for ``ttl`` seconds: in the cache, or else in this process."""

        def write(cache: Any) -> bool:
            cache.set(key, value, timeout=_whole(ttl))
            return True

        if self._ask("set", write, False):
            self._local.delete(key)
        else:
            self._local.set(key, value, ttl)

    def add(self, key: str, value: Any, ttl: float) -> bool:
        """Keep a value if there is none yet, and say whether that was so. Atomic on Redis, memcached and databases."""
        added = self._ask("add", lambda cache: bool(cache.add(key, value, timeout=_whole(ttl))), None)
        return self._local.add(key, value, ttl) if added is None else added

    def increase(self, key: str) -> int | None:
        """Add one to a number and return it; ``None`` where there is none. Atomic on Redis and memcached."""

        def increase(cache: Any) -> int:
            try:
                return int(cache.incr(key))
            except ValueError:
                return 0

        return self._ask("incr", increase, 0) or None

    def delete(self, *keys: str) -> None:
        """Forget keys."""
        self._ask("delete", lambda cache: cache.delete_many(keys), None)
        for key in keys:
            self._local.delete(key)

    def _ask(self, operation: str, question: Callable[[Any], Answer], otherwise: Answer) -> Answer:
        if self.is_down:
            return otherwise
        started = time.monotonic()
        probing = self._down_until > 0
        if probing:
            self._down_until = started + PAUSE  # the others go on without it while this call finds out
        try:
            answer = question(caches[self._alias])
        except InvalidCacheBackendError as error:
            raise ConfigurationError(f"CACHES[{self._alias!r}] can't be used: {error}", setting="CACHE") from None
        except (SynchronousOnlyOperation, ImproperlyConfigured):
            raise  # the site's mistake, not the cache's trouble
        except Exception as error:  # noqa: BLE001 - back ends raise what their libraries raise
            self._trouble(operation, type(error).__name__)
            return otherwise
        now = time.monotonic()
        # A process that has just begun may import and connect for a while, with all that ask at its start.
        if now - started > SLOW and started >= self._answered_at:
            self._trouble(operation, f"more than {SLOW:.0f} s")
        elif probing:
            self._down_until = 0.0
        self._answered_at = min(self._answered_at, now)
        return answer

    def _trouble(self, operation: str, reason: str) -> None:
        self._down_until = time.monotonic() + PAUSE
        log_throttled(
            logger,
            logging.WARNING,
            "The cache %r is in trouble (%s: %s); it is not asked for %.0f s, this process serves from its memory.",
            self._alias,
            operation,
            reason,
            PAUSE,
            reason=f"{self._alias} {reason}",
        )


def _whole(ttl: float) -> int:
    """Seconds as back ends take them; less than one would mean "not at all" to some."""
    return max(1, math.ceil(ttl))


class _ThisThread(threading.local):
    bypasses_cache = False


class LocalStore:
    """A dict with time limits that forgets the oldest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: OrderedDict[str, tuple[Any, float]] = OrderedDict()

    def get(self, key: str) -> Any:
        """The value of a key, or ``None``."""
        if not self._values:  # nearly always
            return None
        value, until = self._values.get(key, (None, 0.0))
        return value if time.monotonic() < until else None

    def set(self, key: str, value: Any, ttl: float) -> None:
        """Keep a value for ``ttl`` seconds."""
        with self._lock:
            self._put(key, value, ttl)

    def add(self, key: str, value: Any, ttl: float) -> bool:
        """Keep a value if there is none yet, and say whether that was so."""
        with self._lock:
            if time.monotonic() < self._values.get(key, (None, 0.0))[1]:
                return False
            self._put(key, value, ttl)
            return True

    def delete(self, key: str) -> None:
        """Forget a key."""
        with self._lock:
            self._values.pop(key, None)

    def _put(self, key: str, value: Any, ttl: float) -> None:
        self._values[key] = (value, time.monotonic() + ttl)
        self._values.move_to_end(key)
        while len(self._values) > LOCAL_ENTRIES:
            self._values.popitem(last=False)


_stores: PerProcess[dict[str, Store]] = PerProcess(dict)


def get_store(alias: str) -> Store:
    """This process's store over a cache alias."""
    stores = _stores.get()
    store = stores.get(alias)
    if store is None:
        store = stores.setdefault(alias, Store(alias))
    return store


def reset_stores() -> None:
    """Start anew; for tests."""
    _stores.renew()
