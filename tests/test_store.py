"""The guarded cache of the site: a cache that fails never affects a visitor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
import time_machine
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.exceptions import SynchronousOnlyOperation
from pytest_django import Settings
from support.app_settings import configure
from support.caches import BACKENDS, CacheBackend
from support.clocks import Clock, once_in_time
from support.faulty_cache import FaultyCache, refused
from support.logs import logged

from hubspot_identify._tokens import store as store_module
from hubspot_identify._tokens.account import get_account
from hubspot_identify._tokens.store import LOCAL_ENTRIES, PAUSE, SLOW, Store
from hubspot_identify.exceptions import ConfigurationError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the store, with the real limit for slow responses."""
    clock = Clock()
    monkeypatch.setattr(store_module, "SLOW", SLOW)
    monkeypatch.setattr(store_module, "time", clock)
    return clock


@pytest.mark.parametrize("cache_backend", BACKENDS, indirect=True)
def test_operations_are_the_same_on_every_back_end(cache_backend: CacheBackend) -> None:
    """All of them act on the site's cache. A lifetime below one second neither means "none" nor "for ever"."""
    store, value = Store("default"), {"token": "a", "number": 1.5, "none": None}
    assert (store.get("key"), store.increase("counter", 60)) == (None, 1)
    assert (store.increase("counter", 60), store.get_many(["key", "counter"])) == (2, {"counter": 2})
    assert store.add("key", value, 60)
    assert not store.add("key", "other", 60)
    assert store.get("key") == caches["default"].get("key") == value
    store.set("key", 41, 60)
    assert store.increase("key", 60) == 42
    store.delete("key", "missing")
    assert store.get("key") is None

    def keep_for_a_fraction_of_a_second() -> None:
        store.delete("key", "other")
        store.set("key", 1, 0.2)
        assert store.add("other", 1, 0.2)
        assert (store.get("key"), store.get("other")) == (1, 1)

    once_in_time(keep_for_a_fraction_of_a_second)  # some back ends count whole seconds, and one may end in between


OPERATIONS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.get("key"),
    "get_many": lambda store: store.get_many(["key"]),
    "set": lambda store: store.set("key", 1, 60),
    "add": lambda store: store.add("key", 1, 60),
    "incr": lambda store: store.increase("key", 60),
    "delete_many": lambda store: store.delete("key"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_cache_that_raises_is_bypassed_for_five_seconds(
    faulty_cache: type[FaultyCache], clock: Clock, caplog: pytest.LogCaptureFixture, operation: str
) -> None:
    """Whichever operation fails, the store raises nothing and uses the cache again after the pause.

    If writing fails, reading continues.
    """
    store = Store("default")
    faulty_cache.instead[operation] = refused
    OPERATIONS[operation](store)
    assert store.is_down
    faulty_cache.asked.clear()
    clock.pass_by(PAUSE - 0.1)
    for call in OPERATIONS.values():
        call(store)
    assert [name for name, _ in faulty_cache.asked] == ([] if operation == "get" else ["get"])
    clock.pass_by(0.2)
    faulty_cache.reset()
    OPERATIONS[operation](store)
    assert operation in dict(faulty_cache.asked)
    assert not store.is_down
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("hubspot_identify._tokens.store", logging.WARNING)
    assert "ConnectionRefusedError" in record.message
    assert "secret" not in caplog.text


def test_each_reason_is_logged_once_a_minute(
    faulty_cache: type[FaultyCache], clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A cache that stays down is logged once a minute; another exception is logged separately."""
    monkeypatch.setattr("hubspot_identify.logs.time", clock)
    faulty_cache.instead["*"] = refused
    store = Store("default")
    for _ in range(9):  # 54 seconds
        store.get("key")
        clock.pass_by(PAUSE + 1)
    assert len(caplog.records) == 1
    faulty_cache.instead["*"] = lambda *_, **__: 1 / 0
    store.get("key")
    assert "ZeroDivisionError" in caplog.records[-1].message
    clock.pass_by(PAUSE + 1)
    faulty_cache.instead["*"] = refused
    store.get("key")
    assert len(caplog.records) == 3


def test_slow_cache_is_bypassed(
    faulty_cache: type[FaultyCache], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A value that arrives after more than a second is used, and the cache is bypassed for the next seconds."""
    caches["default"].set("key", "value")

    def slow_get(key: str) -> object:
        clock.pass_by(SLOW + 4)
        return LocMemCache.get(caches["default"], key)

    store = Store("default")
    store.get("key")
    faulty_cache.instead["get"] = slow_get
    assert store.get("key") == "value"
    assert store.is_down
    faulty_cache.reset()
    assert store.get("key") == "value"
    assert faulty_cache.count() == 0
    assert logged(caplog) == [("hubspot_identify._tokens.store", logging.WARNING)]


def test_first_operations_of_a_process_may_be_slow(
    faulty_cache: type[FaultyCache], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Operations that start before the first one ends may wait for imports and connections."""
    store = Store("default")
    count = 0

    def slow_get(key: str) -> str:
        nonlocal count
        count += 1
        if count < 3:  # as if in another thread
            store.get(key)
        clock.pass_by(SLOW + 1)
        return "value"

    faulty_cache.instead["get"] = slow_get
    assert store.get("key") == "value"
    assert (store.is_down, caplog.records) == (False, [])
    store.get("key")
    assert store.is_down


def test_one_caller_checks_whether_the_cache_works_again(faulty_cache: type[FaultyCache], clock: Clock) -> None:
    """While this caller waits after the pause, the other callers still bypass the cache."""
    store = Store("default")
    faulty_cache.instead["get"] = refused
    store.get("key")
    clock.pass_by(PAUSE)
    bypassed: list[bool] = []

    def get(key: str) -> str:
        bypassed.append(store.is_down)
        return "value"

    faulty_cache.instead["get"] = get
    assert store.get("key") == "value"
    assert (bypassed, store.is_down) == ([True], False)


def test_value_that_the_cache_refused_is_kept_in_the_process(faulty_cache: type[FaultyCache], clock: Clock) -> None:
    """Such a value is still returned after the cache works again, until a newer one is stored or it is deleted."""
    store = Store("default")
    faulty_cache.instead["set"] = refused
    store.set("key", "value", 60)
    assert store.get("key") == "value"
    faulty_cache.reset()
    clock.pass_by(PAUSE)
    assert store.get("key") == "value"
    store.set("key", "newer", 60)
    assert store.get("key") == caches["default"].get("key") == "newer"
    caches["default"].delete("key")  # as another process does
    assert store.get("key") is None
    store.set("key", "newest", 60)
    store.delete("key")
    assert store.get("key") is None


@pytest.mark.parametrize("instead", [refused, lambda *_, **__: None], ids=["raises", "ignores its errors"])
def test_own_value_replaces_the_one_that_the_cache_still_has(
    faulty_cache: type[FaultyCache], clock: Clock, instead: Callable[..., object]
) -> None:
    """When another process has stored a newer value, that one is used, and the own value does not return."""
    store = Store("default")
    caches["default"].set("key", "old")
    assert store.get("key") == "old"
    faulty_cache.instead["set"] = instead
    store.set("key", "own", 60)
    for _ in range(2):
        assert store.get("key") == "own"
        clock.pass_by(PAUSE)
    faulty_cache.reset()
    assert store.get("key") == "own"
    caches["default"].set("key", "of another process")
    assert store.get("key") == "of another process"
    faulty_cache.instead["*"] = refused
    assert store.get("key") == "of another process"


def test_what_was_read_is_used_only_while_the_cache_is_down(faulty_cache: type[FaultyCache], clock: Clock) -> None:
    """A value that another process has replaced or deleted does not return when the cache works again."""
    store, keys = Store("default"), ["replaced", "removed", "deleted"]
    for key in keys:
        caches["default"].set(key, "old")
    assert [store.get(key) for key in keys] == ["old"] * 3
    store.delete("deleted")
    caches["default"].set("replaced", "new")  # as another process does
    caches["default"].delete("removed")
    faulty_cache.instead["*"] = refused
    assert [store.get(key) for key in [*keys, "never-read"]] == ["old", "old", None, None]
    faulty_cache.reset()
    clock.pass_by(PAUSE)
    assert [store.get(key) for key in keys] == ["new", None, None]
    faulty_cache.instead["*"] = refused
    assert store.get("replaced") == "new"


def test_what_was_written_is_available_while_the_cache_is_down(faulty_cache: type[FaultyCache], clock: Clock) -> None:
    """A value that this process wrote is available even if the process has never read it."""
    store = Store("default")
    store.set("key", "value", 60)
    faulty_cache.instead["*"] = refused
    assert store.get("key") == "value"


def test_cache_that_ignores_its_errors_is_bypassed_for_writing(
    faulty_cache: type[FaultyCache], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """If every ``add`` is refused but nothing can be read, locks work only within the process."""
    store = Store("default")
    caches["default"].set("read-before", "value")
    assert store.get("read-before") == "value"
    faulty_cache.instead.update(
        get=lambda key: None, set=lambda *_, **__: None, add=lambda *_, **__: False, incr=lambda *_, **__: False
    )
    for _ in range(2):
        assert store.increase("counter", 60) is None
        assert [store.add("lock", 1, 4) for _ in range(3)] == [True, False, False]
        assert store.is_down
        store.set("key", "value", 60)
        assert [store.get(key) for key in ("key", "read-before")] == ["value", "value"]
        clock.pass_by(PAUSE)
    assert logged(caplog) == [("hubspot_identify._tokens.store", logging.WARNING)]


def test_lock_that_is_released_in_between_is_not_a_failure(faulty_cache: type[FaultyCache], clock: Clock) -> None:
    """Another process deletes its lock between the refused ``add`` and the read."""
    results = iter([False, True])
    faulty_cache.instead["add"] = lambda *_, **__: next(results)
    store = Store("default")
    assert store.add("lock", 1, 4)
    assert not store.is_down


def test_lock_that_a_replica_does_not_have_yet_is_not_a_failure(faulty_cache: type[FaultyCache], clock: Clock) -> None:
    """Django's Redis cache writes to the first server and reads from the others."""
    results = iter([None, 1])
    faulty_cache.instead.update(add=lambda *_, **__: False, get=lambda key: next(results))
    store = Store("default")
    assert not store.add("lock", 1, 4)
    assert not store.is_down


def test_cache_that_stores_nothing_keeps_values_in_the_process(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Django's dummy cache is common in development. It is not a failure, and is not logged."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    store = Store("default")
    store.set("key", "value", 60)
    assert (store.get("key"), store.increase("counter", 60), store.is_down) == ("value", None, False)
    store.delete("key")
    assert store.get("key") is None
    assert caplog.records == []


@pytest.mark.parametrize("error", [TypeError, ValueError])
def test_missing_counter_is_not_a_failure(faulty_cache: type[FaultyCache], error: type[Exception]) -> None:
    """``incr()`` of django-valkey raises a ``TypeError`` for a missing key, where Django's raises a ``ValueError``."""

    def incr(*_: object, **__: object) -> int:
        caches["default"].delete("counter")  # as if it was evicted, or the cache stores nothing
        raise error

    faulty_cache.instead["incr"] = incr
    store = Store("default")
    assert store.increase("counter", 60) is None
    assert not store.is_down


def test_add_succeeds_once_while_the_cache_is_down(faulty_cache: type[FaultyCache], clock: Clock) -> None:
    """Within the process, locks still work and expire."""
    faulty_cache.instead["*"] = refused
    store = Store("default")
    assert [store.add("lock", 1, 4) for _ in range(3)] == [True, False, False]
    clock.pass_by(4)
    assert store.add("lock", 1, 4)


@pytest.mark.parametrize("cache_backend", ["database"], indirect=True)
def test_database_cache_in_an_event_loop_raises(cache_backend: CacheBackend) -> None:
    """Django's error reaches the developer, and the cache does not count as down."""

    async def get() -> None:
        get_account().store.get("key")

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(get())
    assert not get_account().store.is_down


def test_unknown_cache_alias_is_a_configuration_error() -> None:
    """The error names the alias."""
    with pytest.raises(ConfigurationError, match=r"CACHES\['no such cache'\]"):
        Store("no such cache").get("key")


def test_each_alias_has_one_store(settings: Settings) -> None:
    """All accounts of a process share what is known about a cache."""
    settings.CACHES = {**settings.CACHES, "other": settings.CACHES["default"]}
    configure(settings, ACCOUNTS={"eu": {}, "us": {"CACHE": "other"}})
    assert get_account("eu").store is get_account().store
    assert get_account("us").store is not get_account().store


@pytest.mark.parametrize("operation", ["set", "get"])
def test_memory_of_the_process_is_bounded(faulty_cache: type[FaultyCache], operation: str) -> None:
    """The last values that were written while the cache was down, or read before, are kept."""
    store = Store("default")
    numbers = range(4 * LOCAL_ENTRIES)
    if operation == "set":
        faulty_cache.instead["*"] = refused
    for number in numbers:
        if operation == "set":
            store.set(f"key{number}", number, 60)
        else:
            caches["default"].set(f"key{number}", number)
            store.get(f"key{number}")
    faulty_cache.instead["*"] = refused
    kept = [number for number in numbers if store.get(f"key{number}") == number]
    assert LOCAL_ENTRIES <= len(kept) <= 2 * LOCAL_ENTRIES
    assert kept == [*numbers][-len(kept) :]


def test_replaced_value_does_not_return_when_there_are_too_many_others(faulty_cache: type[FaultyCache]) -> None:
    """In a long outage, the process forgets what it could not write. It does not use the older value instead."""
    store = Store("default")
    caches["default"].set("key", "token")
    assert store.get("key") == "token"
    faulty_cache.instead["*"] = refused
    store.set("key", "forgotten", 60)
    assert store.get("key") == "forgotten"
    for number in range(2 * LOCAL_ENTRIES):
        store.set(f"key{number}", number, 60)
    assert store.get("key") is None


@pytest.mark.parametrize("cache_backend", ["locmem", "file", "database"], indirect=True)
def test_counter_expires_after_its_lifetime(cache_backend: CacheBackend) -> None:
    """Django's own ``incr()`` would set the default lifetime of the cache on some back ends."""
    store = Store("default")
    with time_machine.travel(1_800_000_000.0, tick=False) as traveller:
        assert [store.increase("key", 40) for _ in range(2)] == [1, 2]
        traveller.shift(39)
        assert store.get("key") == 2
        traveller.shift(2)
        assert store.get("key") is None


def test_changed_settings_keep_what_is_known_about_the_cache(settings: Settings) -> None:
    """The process keeps its copies of tokens, and whether the cache is down."""
    store = get_account().store
    configure(settings, PORTAL_ID="999")
    assert get_account().store is store
