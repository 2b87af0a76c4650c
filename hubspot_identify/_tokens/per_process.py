"""What each process has to itself, and no process may inherit."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class PerProcess(Generic[Value]):
    """A value that every process makes for itself.

    A forked child begins anew: a lock may have been held at the moment of the fork, and of two processes that read
    from one connection each may get the other's answer. Python tells of its own forks. uWSGI and other programs in C
    fork behind its back, so the process is looked at as well.

    Args:
        make: makes the value.
    """

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make
        self.renew()
        if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
            os.register_at_fork(after_in_child=self.renew)

    def get(self) -> Value:
        """The value of this process."""
        if self._pid != os.getpid():
            self.renew()
        return self._value

    def renew(self) -> None:
        """Begin anew."""
        self._value = self._make()
        self._pid = os.getpid()
