"""The site's cache, guarded: its trouble never reaches a visitor."""

from __future__ import annotations

import asyncio
import logging

import pytest
from django.core.cache import caches
from django.core.exceptions import SynchronousOnlyOperation
from support.caches import SHARED_BACKENDS, CacheBackend
from support.clocks import Clock, once_in_time
from support.faulty_cache import FaultyCache, refused

from hubspot_identify import store as store_module
from hubspot_identify.exceptions import ConfigurationError
from hubspot_identify.store import LOCAL_ENTRIES, PAUSE, SLOW, LocalStore, Store, get_store


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which the store measures, as strictly as in earnest."""
    clock = Clock()
    monkeypatch.setattr(store_module, "SLOW", SLOW)
    monkeypatch.setattr(store_module, "time", clock)
    return clock


@pytest.mark.parametrize("cache_backend", [*SHARED_BACKENDS, "locmem", "file"], indirect=True)
def test_every_back_end(cache_backend: CacheBackend) -> None:
    """Get, set, add, increase and delete do the same on every back end, and on the site's cache itself."""
    store, value = Store("default"), {"token": "a", "number": 1.5, "none": None}
    assert (store.get("key"), store.increase("key")) == (None, None)
    assert store.add("key", value, 60)
    assert not store.add("key", "other", 60)
    assert store.get("key") == caches["default"].get("key") == value
    store.set("key", 41, 60)
    assert store.increase("key") == 42
    store.delete("key", "never there")
    assert store.get("key") is None


@pytest.mark.parametrize("cache_backend", [*SHARED_BACKENDS, "locmem", "file"], indirect=True)
def test_less_than_a_second_is_not_for_ever(cache_backend: CacheBackend) -> None:
    """Fractions of a second, which back ends take for "at once" or "never", are rounded up."""
    store = Store("default")

    def attempt() -> None:
        store.delete("key", "other")
        store.set("key", 1, 0.2)
        assert store.add("other", 1, 0.2)
        assert (store.get("key"), store.get("other")) == (1, 1)

    once_in_time(attempt)  # some back ends count whole seconds, of which the last bit may have been left


@pytest.mark.parametrize("operation", ["get", "set", "add", "incr", "delete_many"])
def test_a_cache_that_raises_is_left_alone_for_a_while(
    faulty_cache: type[FaultyCache], clock: Clock, operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever operation raises: nothing is raised here, and for five seconds the cache is not asked."""
    store = Store("default")
    faulty_cache.instead[operation] = refused
    run = {
        "get": lambda: store.get("key"),
        "set": lambda: store.set("key", 1, 60),
        "add": lambda: store.add("key", 1, 60),
        "incr": lambda: store.increase("key"),
        "delete_many": lambda: store.delete("key"),
    }
    run[operation]()
    assert store.is_down
    asked = faulty_cache.count()
    clock.pass_by(PAUSE - 0.1)
    for ask in run.values():
        ask()
    assert faulty_cache.count() == asked
    clock.pass_by(0.2)
    faulty_cache.reset()
    store.get("key")
    assert (faulty_cache.count(), store.is_down) == (1, False)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"'default' is in trouble ({'delete' if operation == 'delete_many' else operation}" in record.message
    assert "ConnectionRefusedError" in record.message
    assert "secret" not in caplog.text


def test_one_line_a_minute_and_reason(
    faulty_cache: type[FaultyCache], clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A cache that stays down is in the log once a minute; another reason has a line of its own."""
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


def test_a_slow_cache_is_in_trouble_too(
    faulty_cache: type[FaultyCache], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer after more than a second still counts, and the next seconds do without the cache."""
    caches["default"].set("key", "value")

    def slow(key: str) -> object:
        clock.pass_by(SLOW + 4)
        return super(FaultyCache, caches["default"]).get(key)

    store = Store("default")
    store.get("key")
    faulty_cache.instead["get"] = slow
    assert store.get("key") == "value"
    assert store.is_down
    assert store.get("key") is None
    assert "more than 1 s" in caplog.text


def test_a_process_may_take_its_time_to_begin(
    faulty_cache: type[FaultyCache], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that ask before the first answer wait for imports and connections, and that is no trouble."""
    store = Store("default")
    asked = 0

    def slow(key: str) -> str:
        nonlocal asked
        asked += 1
        if asked < 3:  # as if in another thread
            store.get(key)
        clock.pass_by(SLOW + 1)
        return "value"

    faulty_cache.instead["get"] = slow
    assert store.get("key") == "value"
    assert (store.is_down, caplog.records) == (False, [])
    store.get("key")
    assert store.is_down


def test_one_asks_whether_the_cache_is_back(faulty_cache: type[FaultyCache], clock: Clock) -> None:
    """After the pause a single caller finds out; those who come meanwhile go on without."""
    store = Store("default")
    faulty_cache.instead["get"] = refused
    store.get("key")
    clock.pass_by(PAUSE)
    meanwhile: list[bool] = []

    def look(key: str) -> str:
        meanwhile.append(store.is_down)
        return "back"

    faulty_cache.instead["get"] = look
    assert store.get("key") == "back"
    assert (meanwhile, store.is_down) == ([True], False)


def test_what_the_cache_did_not_take_is_kept_here(faulty_cache: type[FaultyCache], clock: Clock) -> None:
    """A value whose set() failed serves this process, also when the cache is back and knows nothing of it."""
    store = Store("default")
    faulty_cache.instead["set"] = refused
    store.set("key", "value", 60)
    assert store.get("key") == "value"
    faulty_cache.reset()
    clock.pass_by(PAUSE)
    assert store.get("key") == "value"
    store.set("key", "newer", 60)
    assert store.get("key") == caches["default"].get("key") == "newer"
    store.delete("key")
    assert store.get("key") is None
    clock.pass_by(60)


def test_add_still_has_one_winner_while_the_cache_is_down(faulty_cache: type[FaultyCache], clock: Clock) -> None:
    """Within the process, and until the lock's time is over."""
    faulty_cache.instead["*"] = refused
    store = Store("default")
    assert [store.add("lock", 1, 4) for _ in range(3)] == [True, False, False]
    clock.pass_by(4)
    assert store.add("lock", 1, 4)


def test_the_database_cache_in_an_event_loop_is_a_mistake_of_the_site(faulty_cache: type[FaultyCache]) -> None:
    """Django's refusal reaches the developer, and the cache is not said to be in trouble."""

    def refuse(key: str) -> None:
        raise SynchronousOnlyOperation

    faulty_cache.instead["get"] = refuse
    store = Store("default")
    with pytest.raises(SynchronousOnlyOperation):
        store.get("key")
    assert not store.is_down


@pytest.mark.parametrize("cache_backend", ["database"], indirect=True)
def test_the_real_database_cache_in_an_event_loop(cache_backend: CacheBackend) -> None:
    """Django itself says so, and we pass it on."""

    async def ask() -> None:
        get_store("default").get("key")

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(ask())
    assert not get_store("default").is_down


def test_an_unknown_alias_is_a_mistake_of_the_site() -> None:
    """No pause, no warning about trouble: the settings are wrong, as are those with a back end that isn't there."""
    with pytest.raises(ConfigurationError, match=r"CACHES\['no such cache'\] can't be used: .* doesn't exist"):
        Store("no such cache").get("key")


def test_each_alias_has_one_store() -> None:
    """Two askers share what is known of the cache's health."""
    assert get_store("default") is get_store("default")
    assert get_store("default") is not get_store("other")


# The store of the process


def test_the_local_store_has_time_limits(clock: Clock) -> None:
    """A value is gone when its time is over."""
    local = LocalStore()
    local.set("key", "value", 10)
    clock.pass_by(9.9)
    assert local.get("key") == "value"
    clock.pass_by(0.1)
    assert local.get("key") is None
    assert local.get("never there") is None


@pytest.mark.parametrize("operation", ["set", "add"])
def test_the_local_store_is_bounded(operation: str) -> None:
    """It forgets the oldest, however the values came in, and not those that were renewed."""
    local = LocalStore()
    write = getattr(local, operation)
    write("renewed", 0, 60)
    for number in range(LOCAL_ENTRIES):
        if number == LOCAL_ENTRIES // 2:
            local.set("renewed", 0, 60)
        write(f"key{number}", number, 60)
    assert local.get("key0") is None
    assert local.get("renewed") == 0
    assert local.get(f"key{LOCAL_ENTRIES - 1}") == LOCAL_ENTRIES - 1
    assert sum(local.get(f"key{number}") is not None for number in range(LOCAL_ENTRIES)) == LOCAL_ENTRIES - 1
