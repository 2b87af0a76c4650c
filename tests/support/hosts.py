"""Processes with Django set up in each, like the hosts of a fleet or the workers of a server.

Each process runs one function at a time in its main thread. The functions of this module are meant to run there.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Self

from support.caches import CacheBackend


def settings_of(backend: CacheBackend, **app_settings: object) -> dict[str, Any]:
    """Settings for a process: the cache of the test, and ``HUBSPOT_IDENTIFY``."""
    identify = {"API_KEY": "key-of-the-tests", "PORTAL_ID": "123", "EMAIL_VERIFIED": True, **app_settings}
    databases = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}, **backend.databases}
    return {**backend.settings, "DATABASES": databases, "HUBSPOT_IDENTIFY": identify}


def _set_up(settings: dict[str, Any]) -> None:
    import django
    from django.conf import settings as django_settings

    django_settings.configure(SECRET_KEY="only-for-tests", INSTALLED_APPS=["hubspot_identify"], **settings)
    django.setup()
    from django.core.cache import caches

    import hubspot_identify._hubspot.client  # so that the first call does not import it
    import hubspot_identify.services  # noqa: F401 - so that the first page does not import it
    from hubspot_identify._tokens import store

    caches["default"].get("anything")  # loads the back end and its library

    store.SLOW = 30.0  # on a busy machine a healthy cache may take more than a second


class Host:
    """A process, as a context manager."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._pool = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=_set_up, initargs=(settings,)
        )

    def start(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Start a function in the process."""
        return self._pool.submit(function, *args)

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function in the process, and return its result."""
        return self.start(function, *args).result(60)

    def die(self) -> None:
        """End the process at once and without clean-up, like a host that loses power."""
        with contextlib.suppress(BrokenProcessPool):
            self.run(os._exit, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


def in_threads(number: int, function: Callable[[int], Any]) -> list[Any]:
    """Call a function with 0, 1, 2, … in one thread each, all started at the same moment, and return the results."""
    from django.core.cache import caches
    from django.db import connections

    barrier, results = threading.Barrier(number), [None] * number

    def run(index: int) -> None:
        barrier.wait(30)
        results[index] = function(index)
        caches.close_all()
        connections.close_all()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def ready() -> bool:
    """Return once the process is running."""
    return True


def set_clock(ahead: float) -> None:
    """Set the clock of this process ahead by so many seconds."""
    import time_machine

    time_machine.travel(time.time() + ahead, tick=True).start()


def configure(app_settings: dict[str, Any]) -> None:
    """Replace ``HUBSPOT_IDENTIFY`` in this process."""
    from django.test import override_settings

    override_settings(HUBSPOT_IDENTIFY=app_settings).enable()


def change(name: str, value: object) -> None:
    """Set a constant of the app, such as ``_tokens.breaker.COOL_DOWN``."""
    module, _, constant = name.rpartition(".")
    setattr(importlib.import_module(f"hubspot_identify.{module}"), constant, value)


def get_token(email: str, wait: float = 0.0) -> str | None:
    """Return the token of a visitor, if there is one."""
    from hubspot_identify import services
    from hubspot_identify.visitors import Visitor

    token = services.get_token(Visitor(email), wait=wait)
    return token.value if token else None


def stampede(email: str, requests: int) -> list[str | None]:
    """Return the tokens that simultaneous requests of one visitor get."""
    return in_threads(requests, lambda _: get_token(email))


def rest() -> None:
    """Wait until no worker is busy."""
    from hubspot_identify.testing import join_threads

    assert join_threads(30)


def visit(name: str, threads: int, seconds: float, pause: float) -> dict[str, Any]:
    """Request tokens for new visitors from several threads for so many seconds.

    Returns:
        The number of page views, and the seconds that the slowest took.
    """
    end = time.monotonic() + seconds

    def browse(index: int) -> tuple[int, float]:
        views, slowest = 0, 0.0
        while (started := time.monotonic()) < end:
            get_token(f"{name}-{index}-{views}@example.com")
            slowest = max(slowest, time.monotonic() - started)
            views += 1
            time.sleep(pause)  # as visitors do
        return views, slowest

    results = in_threads(threads, browse)
    rest()
    return {"views": sum(views for views, _ in results), "slowest": max(slowest for _, slowest in results)}


def log_in(name: str, visitors: int, seconds: float, delays: tuple[float, ...]) -> int:
    """Log in visitors over so many seconds. Each requests a token again after the delays, as the browser does.

    Returns:
        The number of visitors that were identified.
    """
    start = time.monotonic()
    plan = [(start + seconds * number / visitors, number, 0) for number in range(visitors)]
    identified = 0
    while plan:
        plan.sort()
        at, number, attempt = plan.pop(0)
        time.sleep(max(0.0, at - time.monotonic()))
        if get_token(f"{name}-{number}@example.com") is not None:
            identified += 1
        elif attempt < len(delays):
            plan.append((time.monotonic() + delays[attempt], number, attempt + 1))
    rest()
    return identified


def allows_call() -> bool:
    """Return whether the circuit breaker allows a call."""
    from hubspot_identify._tokens.account import get_account

    return get_account().breaker.allows_call()


def is_open_locally() -> bool:
    """Return whether the circuit breaker is open in this process."""
    from hubspot_identify._tokens.account import get_account

    return get_account().breaker.is_open_locally
