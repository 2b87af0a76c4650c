"""A cache that records its operations and fails as a test requires."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from django.core.cache.backends.locmem import LocMemCache


class FaultyCache(LocMemCache):
    """A local-memory cache whose operations a test can count and replace, for all threads alike."""

    #: The operations so far, in order, each with the name of its thread.
    asked: list[tuple[str, str]] = []  # noqa: RUF012 - shared by all instances
    #: The functions to call instead of operations, by the name of the operation; ``*`` replaces all of them.
    instead: dict[str, Callable[..., Any]] = {}  # noqa: RUF012

    @classmethod
    def reset(cls) -> None:
        """Discard the recorded operations and all replacements."""
        cls.asked.clear()
        cls.instead.clear()

    @classmethod
    def count(cls, thread: str | None = None) -> int:
        """Return the number of operations of one thread, or of all."""
        return sum(thread in (None, name) for _, name in cls.asked)

    def _do(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        self.asked.append((operation, threading.current_thread().name))
        instead = self.instead.get(operation) or self.instead.get("*")
        if instead is not None:
            return instead(*args, **kwargs)
        return getattr(super(), operation)(*args, **kwargs)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        return self._do("get", *args, **kwargs)

    def get_many(self, keys: Any, *args: Any, **kwargs: Any) -> Any:
        self.asked.append(("get_many", threading.current_thread().name))
        instead = self.instead.get("get_many") or self.instead.get("*")
        if instead is not None:
            return instead(keys, *args, **kwargs)
        found = {key: LocMemCache.get(self, key) for key in keys}  # Django's get_many() calls get() for each key
        return {key: value for key, value in found.items() if value is not None}

    def set(self, *args: Any, **kwargs: Any) -> Any:
        return self._do("set", *args, **kwargs)

    def add(self, *args: Any, **kwargs: Any) -> Any:
        return self._do("add", *args, **kwargs)

    def incr(self, *args: Any, **kwargs: Any) -> Any:
        return self._do("incr", *args, **kwargs)

    def delete_many(self, *args: Any, **kwargs: Any) -> Any:
        return self._do("delete_many", *args, **kwargs)


def refused(*args: Any, **kwargs: Any) -> Any:
    """Raise what a cache raises whose server is down."""
    raise ConnectionRefusedError("redis://secret@127.0.0.1")
