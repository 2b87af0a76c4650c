"""How many calls the rate limit allows, on a clock that the test moves."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.cache import caches
from support.accounts import new_account
from support.caches import SHARED_BACKENDS, CacheBackend
from support.clocks import Clock
from support.faulty_cache import FaultyCache, refused

from hubspot_identify._tokens import rate_limit as rate_limit_module
from hubspot_identify._tokens import store as store_module
from hubspot_identify._tokens.rate_limit import WINDOW, RateLimit
from hubspot_identify.exceptions import CredentialError

NewLimit = Callable[..., RateLimit]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def new_limit(clock: Clock) -> NewLimit:
    """Return a factory for the rate limits of further processes, which share only the cache and the clock."""

    def create(limit: int, clock: Clock = clock, account: str = "", **changes: object) -> RateLimit:
        return new_account(clock, account, RATE_LIMIT=limit, **changes).rate_limit

    return create


@pytest.mark.parametrize("cache_backend", SHARED_BACKENDS, indirect=True)
def test_rate_limit_applies_to_all_processes_together(
    cache_backend: CacheBackend, new_limit: NewLimit, clock: Clock
) -> None:
    """Ten times the limit is allowed at once. After 10 s one second's calls are allowed, and after 11 s the others."""
    limits = [new_limit(4) for _ in range(3)]

    def calls_allowed() -> int:
        allowed = [limits[number % 3].allows_call() for number in range(60)]
        assert allowed == sorted(allowed, reverse=True)
        return sum(allowed)

    assert calls_allowed() == 40
    clock.pass_by(WINDOW)
    assert calls_allowed() == 4
    clock.pass_by(1)
    assert calls_allowed() == 36


def test_limit_of_17_never_exceeds_the_190_calls_of_hubspot(new_limit: NewLimit, clock: Clock) -> None:
    """Whenever the calls begin, no 10 s contain more, and refused calls do not count."""
    limit = new_limit(17)
    calls: deque[float] = deque()
    made: Counter[bool] = Counter()
    started = clock.now
    for tick in range(4000):
        allowed = limit.allows_call()
        made[allowed] += 1
        if allowed:
            calls.append(clock.now)
        while calls and calls[0] <= clock.now - WINDOW:
            calls.popleft()
        assert len(calls) <= 190
        clock.pass_by(0.02 if tick % 400 else 1.5)
    assert made[True] >= 17 * 0.9 * (clock.now - started)


@pytest.mark.parametrize("cache_backend", ["redis", "memcached"], indirect=True)
def test_simultaneous_calls_never_exceed_the_rate_limit(
    cache_backend: CacheBackend, new_limit: NewLimit, clock: Clock
) -> None:
    """Where the cache counts atomically, the limit also holds for the first calls of several processes.

    The calls that are refused because others were faster do not count.
    """
    limits = [new_limit(1) for _ in range(8)]

    def allows_call(limit: RateLimit) -> bool:
        allowed = limit.allows_call()
        caches.close_all()
        return allowed

    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            allowed = sum(pool.map(allows_call, limits * 4))
            assert 0 < allowed <= WINDOW
            assert sum(limits[0].allows_call() for _ in range(WINDOW)) == WINDOW - allowed
            clock.pass_by(WINDOW + 1)


def test_clock_that_is_an_hour_ahead_does_not_void_the_limit(new_limit: NewLimit, clock: Clock) -> None:
    """The host with the wrong clock counts by itself. It neither blocks the other host nor lifts the limit."""
    ahead_clock = Clock(clock.now + 3600)
    limits = [new_limit(1), new_limit(1, ahead_clock)]
    for _ in range(6):
        counts = [sum(limit.allows_call() for _ in range(20)) for limit in limits]
        assert all(count <= WINDOW for count in counts)
        clock.pass_by(1)
        ahead_clock.pass_by(1)
    assert not any(limit.allows_call() for limit in limits)


@pytest.mark.parametrize("value", ["many", object()])
def test_foreign_values_do_not_stop_the_calls(
    new_limit: NewLimit, faulty_cache: type[FaultyCache], value: object
) -> None:
    """The cache counts as down, so the process makes one call per second."""
    faulty_cache.instead["get_many"] = lambda keys: dict.fromkeys(keys, value)
    assert new_limit(1).allows_call()


def test_cache_that_cannot_count_leaves_one_call_a_second_to_each_process(
    monkeypatch: pytest.MonkeyPatch, new_limit: NewLimit, faulty_cache: type[FaultyCache], clock: Clock
) -> None:
    """Django's dummy cache stores nothing, and raises nothing."""
    faulty_cache.instead["add"] = lambda *_, **__: True
    monkeypatch.setattr(rate_limit_module, "time", clock)
    limit = new_limit(1)
    for _ in range(3):
        assert [limit.allows_call() for _ in range(3)] == [True, False, False]
        clock.pass_by(1)


@pytest.mark.parametrize("operation", ["*", "get_many", "incr", "add"])
def test_failing_cache_leaves_one_call_a_second_to_each_process(
    monkeypatch: pytest.MonkeyPatch,
    faulty_cache: type[FaultyCache],
    new_limit: NewLimit,
    clock: Clock,
    operation: str,
) -> None:
    """Nothing is shared then. The call is for visitors without a token, not for changed names."""
    faulty_cache.instead[operation] = refused
    monkeypatch.setattr(store_module, "time", clock)
    monkeypatch.setattr(rate_limit_module, "time", clock)
    limit = new_limit(1)
    for _ in range(4):
        assert not limit.allows_call(for_changes=True)
        assert [limit.allows_call() for _ in range(3)].count(True) == 1
        clock.pass_by(1)


@pytest.mark.parametrize("limit", [1, 17])
def test_changed_names_get_a_tenth_of_the_calls(new_limit: NewLimit, clock: Clock, limit: int) -> None:
    """This holds for all processes together. The other calls are for first tokens and for old ones."""
    limits = [new_limit(limit) for _ in range(3)]
    changes = others = 0
    for _ in range(6):
        changes += sum(limits[number % 3].allows_call(for_changes=True) for number in range(20 * limit))
        others += sum(limits[number % 3].allows_call() for number in range(20 * limit))
        clock.pass_by(WINDOW + 1)
    assert (changes, others) == (6 * limit, 6 * 9 * limit)


def test_accounts_have_separate_rate_limits(new_limit: NewLimit) -> None:
    """This applies even to accounts that differ only in their names."""
    accounts: dict[str, dict[str, object]] = {"eu": {}, "us": {}}
    limits = [new_limit(1, account=name, ACCOUNTS=accounts) for name in ("", "eu", "us")]
    for limit in limits:
        assert [limit.allows_call() for _ in range(WINDOW + 1)] == [True] * WINDOW + [False]


def test_refused_probe_takes_nothing_from_the_rate_limit(clock: Clock) -> None:
    """Visitors with a failure on record cannot use up the calls that a probe of the circuit breaker needs."""
    account = new_account(clock, RATE_LIMIT=1)
    for visitor in ("ada", "eve", "joe", "ben", "zoe"):
        account.breaker.record_failure(CredentialError("The callable failed."), visitor, clock.now)
    assert not account.allows_call(may_probe=True, for_changes=False)
    clock.pass_by(20)
    assert not any(account.allows_call(may_probe=False, for_changes=False) for _ in range(20))
    assert account.allows_call(may_probe=True, for_changes=False)
