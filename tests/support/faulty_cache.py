"""A cache that keeps account of who asks it what, and fails as a test wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from django.core.cache.backends.locmem import LocMemCache


class FaultyCache(LocMemCache):
    """LocMem with a mind of the test's. What is asked and what is to happen is the same for all threads."""

    #: Operation and name of the thread that asked for it, in order.
    asked: list[tuple[str, str]] = []  # noqa: RUF012 - meant to be shared
    #: What to do in place of an operation: called with its arguments, ``*`` for all operations.
    instead: dict[str, Callable[..., Any]] = {}  # noqa: RUF012

    @classmethod
    def reset(cls) -> None:
        """Work from now on, and forget who asked what."""
        cls.asked.clear()
        cls.instead.clear()

    @classmethod
    def count(cls, thread: str | None = None) -> int:
        """How many operations there were, by one thread or by all."""
        return sum(thread in (None, name) for _, name in cls.asked)

    def _do(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        self.asked.append((operation, threading.current_thread().name))
        instead = self.instead.get(operation) or self.instead.get("*")
        if instead is not None:
            return instead(*args, **kwargs)
        return getattr(super(), operation)(*args, **kwargs)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        return self._do("get", *args, **kwargs)

    def set(self, *args: Any, **kwargs: Any) -> Any:
        return self._do("set", *args, **kwargs)

    def add(self, *args: Any, **kwargs: Any) -> Any:
        return self._do("add", *args, **kwargs)

    def incr(self, *args: Any, **kwargs: Any) -> Any:
        return self._do("incr", *args, **kwargs)

    def delete_many(self, *args: Any, **kwargs: Any) -> Any:
        return self._do("delete_many", *args, **kwargs)


def refused(*args: Any, **kwargs: Any) -> Any:
    """What a back end does whose server is gone."""
    raise ConnectionRefusedError("redis://secret@127.0.0.1")
