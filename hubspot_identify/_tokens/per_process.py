"""Values that each process creates for itself and no process inherits."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class PerProcess(Generic[Value]):
    """A value that every process creates for itself.

    A forked child starts with a new one: a lock may have been held at the moment of the fork. Python reports its own
    forks. uWSGI and other programs in C fork without Python's knowledge, so the process ID is compared as well.

    Args:
        create: creates the value.
    """

    def __init__(self, create: Callable[[], Value]) -> None:
        self._create = create
        self.renew()
        if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
            os.register_at_fork(after_in_child=self.renew)

    def get(self) -> Value:
        """Return the value of this process."""
        if self._pid != os.getpid():
            self.renew()
        return self._value

    def set(self, value: Value) -> None:
        """Replace the value of this process."""
        self._value = value

    def renew(self) -> None:
        """Create a new value."""
        self._value = self._create()
        self._pid = os.getpid()
