"""Guarded access to the site's cache: a cache that fails never affects a visitor.

An operation that raises or takes more than a second counts as a failure. It is also a failure if a key can neither be
added, because it exists, nor be read: some caches ignore their errors. After a failure, the cache is bypassed for some
seconds: completely if it cannot be read, and otherwise only for writing.

Meanwhile, this process uses memory of its own: what it could not write, and what it has read before. A value that the
cache has accepted but not stored stays in the process as well.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from django.core.cache import InvalidCacheBackendError, caches
from django.core.cache.backends.base import BaseCache
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation

from .._compat import fixed_cache_keys
from ..exceptions import ConfigurationError
from ..logs import log_throttled
from .entries import PREFIX

logger = logging.getLogger(__name__)

PAUSE = 5.0  # seconds for which a failed cache is bypassed
SLOW = 1.0  # seconds after which a response counts as a failure
REPLICA_LAG = 0.05  # seconds after which a replica of the cache has what was written to it
LOCAL_ENTRIES = 500  # last values that are kept in the process; at most twice as many

Value = TypeVar("Value")


class NotStoredError(Exception):
    """The cache neither adds a key nor returns its value."""


class Memory:
    """Values of this process: at least the last :data:`LOCAL_ENTRIES`. They expire by the monotonic clock.

    Every page that reads an entry calls :meth:`set`, so it must be cheap: when there are enough recent values, they
    replace the older ones all at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # not used by set(), which may lose a value if two threads call it at once
        self._recent_and_older: tuple[dict[str, tuple[Any, float]], ...] = {}, {}  # with the times when they expire

    def get(self, key: str) -> Any:
        """Return the value of a key, or ``None``."""
        recent, older = self._recent_and_older
        value, expires_at = recent.get(key) or older.get(key) or (None, 0.0)
        return value if time.monotonic() < expires_at else None

    def set(self, key: str, value: Any, ttl: float = math.inf) -> None:
        """Keep a value for ``ttl`` seconds."""
        recent, _ = self._recent_and_older
        if len(recent) >= LOCAL_ENTRIES:
            recent, _ = self._recent_and_older = {}, recent
        recent[key] = value, time.monotonic() + ttl

    def add(self, key: str, value: Any, ttl: float) -> bool:
        """Keep a value if there is none, and return whether there was none."""
        with self._lock:
            if self.get(key) is not None:
                return False
            self.set(key, value, ttl)
            return True

    def delete(self, key: str) -> None:
        """Delete a key."""
        for values in self._recent_and_older:
            values.pop(key, None)


class Bypass:
    """The pause after a failure, during which operations of one kind are not tried.

    Attributes:
        message: the text for the log.
        until: the end of the pause on the monotonic clock; 0 while the operations work.
    """

    def __init__(self, action: str) -> None:
        self.message = f"Cache %r failed (%s: %s). {action} for %.0f s and falling back to memory of this process."
        self.until = 0.0


class Store:
    """One cache of the site in this process. No method raises an exception because the cache fails.

    Args:
        alias: the cache's alias in ``CACHES``.
    """

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._reads = Bypass("Bypassing it")
        self._writes = Bypass("Not writing to it")
        #: Values that the cache has not stored, each with the value that it was to replace.
        self._unsaved = Memory()
        #: Values as they were last read from the cache. They are used while the cache is bypassed.
        self._copies = Memory()
        self._first_response_at = math.inf

    @property
    def is_down(self) -> bool:
        """Whether the cache is bypassed at the moment, completely or for writing."""
        return time.monotonic() < max(self._reads.until, self._writes.until)

    def made_keys(self, *keys: str) -> dict[str, str]:
        """Return the keys as the cache makes them on this thread, or unchanged if its ``KEY_FUNCTION`` fails."""
        try:
            return {key: caches[self._alias].make_key(key) for key in keys}
        except Exception:  # noqa: BLE001 - it is the site's function; the operations of the cache report it
            return dict(zip(keys, keys, strict=True))

    def using_keys(self, made: Mapping[str, str]) -> AbstractContextManager[None]:
        """Within a block, use keys that another thread made."""
        return fixed_cache_keys(caches[self._alias], made, PREFIX)

    def get(self, key: str) -> Any:
        """Return the value of a key, or ``None``. One operation of the cache."""
        # The key is made here as well, because this takes less time than to look up the cache again.
        value, own_key = self._call(self._reads, "get", lambda cache: (cache.get(key), cache.make_key(key)), (None, ""))
        own_key = own_key or self._own_key(key)
        unsaved = self._unsaved.get(own_key)
        if unsaved is not None:
            if value in (None, unsaved[1]):
                return unsaved[0]
            self._unsaved.delete(own_key)  # another process has stored a newer value
        if value is None:
            return self._copies.get(own_key) if self.is_down else None
        self._copies.set(own_key, value)
        return value

    def get_many(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the counters of the keys that have one. One operation of the cache.

        It counts as a write, because some back ends use a transaction, which Redis refuses if it is out of memory.
        """

        def read(cache: Any) -> dict[str, int]:
            return {key: int(value) for key, value in cache.get_many(keys).items()}

        return self._call(self._writes, "get_many", read, {})

    def set(self, key: str, value: Any, ttl: float) -> None:
        """Keep a value for ``ttl`` seconds: in the cache, or else in this process."""

        def write(cache: Any) -> Any:
            cache.set(key, value, timeout=_whole(ttl))
            return cache.get(key)  # the cache may ignore its errors, or store nothing

        own_key = self._own_key(key)
        _, replaced = self._unsaved.get(own_key) or (None, self._copies.get(own_key))
        stored = self._call(self._writes, "set", write, None)
        if stored in (None, replaced):
            self._unsaved.set(own_key, (value, replaced), ttl)
            self._copies.delete(own_key)  # it must not return when there are too many unsaved values
        else:
            self._copies.set(own_key, stored)
            self._unsaved.delete(own_key)

    def add(self, key: str, value: Any, ttl: float) -> bool:
        """Keep a value if there is none, and return whether there was none. Atomic on shared back ends."""

        def add(cache: Any) -> bool:
            for _ in range(2):
                if cache.add(key, value, timeout=_whole(ttl)):
                    return True
                if cache.get(key) is not None:
                    return False
                time.sleep(REPLICA_LAG)  # the key has expired since, or is read from a replica
            raise NotStoredError

        added = self._call(self._writes, "add", add, None)
        return self._unsaved.add(self._own_key(key), (value, None), ttl) if added is None else added

    def increase(self, key: str, ttl: float, by: int = 1) -> int | None:
        """Add a number to a counter and return it, or ``None`` if the cache cannot. Atomic on Redis and memcached."""

        def increase(cache: Any) -> int | None:
            cache.add(key, 0, timeout=_whole(ttl))
            try:
                number = int(cache.incr(key, by))
            except Exception:
                if cache.get(key) is None:  # the cache stores nothing; the exception depends on the back end
                    return None
                raise
            if type(cache).incr is BaseCache.incr:  # which also sets the default lifetime
                cache.touch(key, _whole(ttl))
            return number if number >= by else None  # pymemcache returns False if it ignores its errors

        return self._call(self._writes, "incr", increase, None)

    def delete(self, *keys: str) -> None:
        """Delete keys."""
        self._call(self._writes, "delete", lambda cache: cache.delete_many(keys), None)
        for key in self.made_keys(*keys).values():
            self._unsaved.delete(key)
            self._copies.delete(key)

    def _own_key(self, key: str) -> str:
        """Return the key in this process's memory. Tenants may have separate values for one key of the app."""
        return self.made_keys(key)[key]

    def _call(self, kind: Bypass, operation: str, function: Callable[[Any], Value], fallback: Value) -> Value:
        """Call a function with the cache, and return its result; or the fallback, if the cache is bypassed or fails."""
        started = time.monotonic()
        if started < max(self._reads.until, kind.until):
            return fallback
        probing = kind.until > 0
        if probing:
            kind.until = started + PAUSE  # other threads bypass the cache while this one tries it
        try:
            result = function(caches[self._alias])
        except InvalidCacheBackendError as error:
            raise ConfigurationError("CACHE", f"CACHES[{self._alias!r}] can't be used: {error}") from None
        except (SynchronousOnlyOperation, ImproperlyConfigured):
            raise  # an error in the site's code, not a failure of the cache
        except Exception as error:  # noqa: BLE001 - back ends raise what their libraries raise
            self._bypass(kind, operation, type(error).__name__)
            return fallback
        now = time.monotonic()
        # A new process may import modules and connect, together with all the others that start with it.
        if now - started > SLOW and started >= self._first_response_at:
            self._bypass(kind, operation, f"more than {SLOW:.0f} s")
        elif probing:
            kind.until = 0.0
        self._first_response_at = min(self._first_response_at, now)
        return result

    def _bypass(self, kind: Bypass, operation: str, reason: str) -> None:
        kind.until = time.monotonic() + PAUSE
        arguments = self._alias, operation, reason, PAUSE
        log_throttled(logger, logging.WARNING, kind.message, *arguments, reason=f"{self._alias} {reason}")


def _whole(ttl: float) -> int:
    """Round up to whole seconds. Some back ends take less than one second as "do not store"."""
    return max(1, math.ceil(ttl))
