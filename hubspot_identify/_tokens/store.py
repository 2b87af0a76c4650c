"""Guarded access to the site's cache: a cache that fails never affects a visitor.

An operation that raises or takes more than a second counts as a failure. The cache is then bypassed for some seconds,
and this process uses memory of its own. A token that could not be written to the cache stays there.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from django.core.cache import InvalidCacheBackendError, caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation

from .._compat import fixed_cache_keys
from ..exceptions import ConfigurationError
from ..logs import log_throttled
from .entries import PREFIX

logger = logging.getLogger(__name__)

PAUSE = 5.0  # seconds for which a failed cache is bypassed
SLOW = 1.0  # seconds after which a response counts as a failure
LOCAL_ENTRIES = 1000

Value = TypeVar("Value")


class Store:
    """One cache of the site in this process. No method raises an exception because the cache fails.

    Args:
        alias: the cache's alias in ``CACHES``.
    """

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._local = LocMemCache(f"hubspot_identify {uuid.uuid4()}", {"OPTIONS": {"MAX_ENTRIES": LOCAL_ENTRIES}})
        self._down_until = 0.0
        self._first_response_at = math.inf

    @property
    def is_down(self) -> bool:
        """Whether the cache is bypassed at the moment."""
        return time.monotonic() < self._down_until

    def made_keys(self, *keys: str) -> dict[str, str]:
        """Return the keys as the cache makes them on this thread, or nothing if its ``KEY_FUNCTION`` fails."""
        try:
            return {key: caches[self._alias].make_key(key) for key in keys}
        except Exception:  # noqa: BLE001 - it is the site's function; the operations of the cache report it
            return {}

    def using_keys(self, made: Mapping[str, str]) -> AbstractContextManager[None]:
        """Within a block, use keys that another thread made."""
        return fixed_cache_keys(caches[self._alias], made, PREFIX)

    def get(self, key: str) -> Any:
        """Return the value of a key, or ``None``. One operation of the cache."""
        value = self._call("get", lambda cache: cache.get(key), None)
        return self._local.get(key) if value is None else value

    def get_many(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the counters of the keys that have one. One operation of the cache."""

        def read(cache: Any) -> dict[str, int]:
            return {key: int(value) for key, value in cache.get_many(keys).items()}

        return self._call("get_many", read, {})

    def set(self, key: str, value: Any, ttl: float) -> None:
        """Keep a value for ``ttl`` seconds: in the cache, or else in this process."""

        def write(cache: Any) -> bool:
            cache.set(key, value, timeout=_whole(ttl))
            return True

        if self._call("set", write, False):
            self._local.delete(key)
        else:
            self._local.set(key, value, ttl)

    def add(self, key: str, value: Any, ttl: float) -> bool:
        """Keep a value if there is none, and return whether there was none. Atomic on shared back ends."""
        added = self._call("add", lambda cache: bool(cache.add(key, value, timeout=_whole(ttl))), None)
        return self._local.add(key, value, ttl) if added is None else added

    def add_locally(self, key: str, value: Any, ttl: float) -> bool:
        """Do the same as :meth:`add` in this process only."""
        return self._local.add(key, value, ttl)

    def increase(self, key: str, ttl: float) -> int | None:
        """Add one to a counter and return it, or ``None`` if the cache cannot. Atomic on Redis and memcached."""

        def increase(cache: Any) -> int | None:
            cache.add(key, 0, timeout=_whole(ttl))
            try:
                number = int(cache.incr(key))
            except ValueError:  # the cache stores nothing
                return None
            if type(cache).incr is BaseCache.incr:  # which also sets the default lifetime
                cache.touch(key, _whole(ttl))
            return number

        return self._call("incr", increase, None)

    def delete(self, *keys: str) -> None:
        """Delete keys."""
        self._call("delete", lambda cache: cache.delete_many(keys), None)
        self._local.delete_many(keys)

    def _call(self, operation: str, function: Callable[[Any], Value], fallback: Value) -> Value:
        """Call a function with the cache, and return its result; or the fallback, if the cache is bypassed or fails."""
        if self.is_down:
            return fallback
        started = time.monotonic()
        probing = self._down_until > 0
        if probing:
            self._down_until = started + PAUSE  # other threads bypass the cache while this one tries it
        try:
            result = function(caches[self._alias])
        except InvalidCacheBackendError as error:
            raise ConfigurationError("CACHE", f"CACHES[{self._alias!r}] can't be used: {error}") from None
        except (SynchronousOnlyOperation, ImproperlyConfigured):
            raise  # an error in the site's code, not a failure of the cache
        except Exception as error:  # noqa: BLE001 - back ends raise what their libraries raise
            self._bypass(operation, type(error).__name__)
            return fallback
        now = time.monotonic()
        # A new process may import modules and connect, together with all the others that start with it.
        if now - started > SLOW and started >= self._first_response_at:
            self._bypass(operation, f"more than {SLOW:.0f} s")
        elif probing:
            self._down_until = 0.0
        self._first_response_at = min(self._first_response_at, now)
        return result

    def _bypass(self, operation: str, reason: str) -> None:
        self._down_until = time.monotonic() + PAUSE
        message = "Cache %r failed (%s: %s). Bypassing it for %.0f s and falling back to memory of this process."
        arguments = self._alias, operation, reason, PAUSE
        log_throttled(logger, logging.WARNING, message, *arguments, reason=f"{self._alias} {reason}")


def _whole(ttl: float) -> int:
    """Round up to whole seconds. Some back ends take less than one second as "do not store"."""
    return max(1, math.ceil(ttl))
