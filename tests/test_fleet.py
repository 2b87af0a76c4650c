"""Several processes, on one host or several, that share only a cache. The clock of one of them is 5 s ahead."""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
from django.core.management import call_command
from support import hosts
from support.caches import CLASSES, DATABASE_ALIAS, CacheBackend
from support.clocks import GENEROUS_TIMEOUT
from support.hosts import Host, settings_of
from support.server import TokenServer

from hubspot_identify._tokens.rate_limit import WINDOW
from hubspot_identify.visitors import normalize_email

pytestmark = pytest.mark.slow

NewSite = Callable[..., None]

PROCESSES = 3


@pytest.fixture(scope="module")
def backend(redis_url: str, memcached_address: str, tmp_path_factory: pytest.TempPathFactory) -> CacheBackend:
    """The settings of a site with one cache on each back end; Redis is the default."""
    locations = {
        "default": ("redis", redis_url),
        "memcached": ("memcached", memcached_address),
        "database": ("database", "hubspot_identify_cache"),
        "locmem": ("locmem", ""),
    }
    caches = {
        alias: {"BACKEND": f"django.core.cache.backends.{CLASSES[name]}", "LOCATION": location, "KEY_PREFIX": "fleet"}
        for alias, (name, location) in locations.items()
    }
    database = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path_factory.mktemp("fleet") / "cache.sqlite3"),
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
    }
    return CacheBackend("all", caches, {DATABASE_ALIAS: database})


@pytest.fixture(scope="module")
def fleet(backend: CacheBackend) -> Iterator[list[Host]]:
    """Running processes, which each test configures. The clock of the first one is 5 s ahead."""
    with Host(settings_of(backend)) as ahead, Host(settings_of(backend)) as second, Host(settings_of(backend)) as third:
        processes = [ahead, second, third]
        for host in processes:
            host.start(hosts.change, "_hubspot.client.READ_TIMEOUT", 120.0)
        for host in processes:
            host.run(normalize_email, "ada@example.com")  # compiles Django's patterns, which takes long in 50 threads
        ahead.run(functools.partial(call_command, "createcachetable", database=DATABASE_ALIAS, verbosity=0))
        ahead.run(hosts.set_clock, 5.0)
        yield processes


@pytest.fixture
def new_site(backend: CacheBackend, token_server: TokenServer) -> NewSite:
    """Return a function that lets processes serve the site of this test, which shares no state with other tests."""
    key = f"key-{uuid.uuid4().hex}"

    def configure(*processes: Host, **app_settings: object) -> None:
        site = settings_of(backend, API_KEY=key, BASE_URL=token_server.url, **app_settings)["HUBSPOT_IDENTIFY"]
        for host in processes:
            host.run(hosts.configure, site)

    return configure


@pytest.mark.parametrize(
    ("alias", "max_calls"), [("default", 1), ("memcached", 1), ("database", 1), ("locmem", PROCESSES)]
)
def test_simultaneous_first_requests_of_one_visitor_make_one_call(
    fleet: list[Host], new_site: NewSite, token_server: TokenServer, alias: str, max_calls: int
) -> None:
    """There is one call if the cache is shared, and otherwise one in each process. No request waits for HubSpot."""
    token_server.set_scenario("held")
    new_site(*fleet, TIMEOUT=30, CACHE=alias)
    stampedes = [host.start(hosts.stampede, "ada@example.com", 50) for host in fleet]
    assert [future.result(60) for future in stampedes] == [[None] * 50] * PROCESSES
    token_server.release()
    for host in fleet:
        host.run(hosts.rest)
    assert 1 <= token_server.calls <= max_calls
    tokens = {host.run(hosts.get_token, "ada@example.com") for host in fleet}
    assert tokens == set(token_server.emails_by_token())


def test_hosts_with_different_clocks_share_tokens_and_the_breaker(
    fleet: list[Host], new_site: NewSite, token_server: TokenServer
) -> None:
    """Each host uses the tokens of the other. Their failures add up, and the breaker opens for both."""
    ahead, behind, _ = fleet
    new_site(ahead, behind, TIMEOUT=30)
    for one, other, email in ((ahead, behind, "ada@example.com"), (behind, ahead, "eve@example.com")):
        token = one.run(hosts.get_token, email, GENEROUS_TIMEOUT)
        assert token is not None
        assert other.run(hosts.get_token, email) == token
    assert sorted(token_server.emails_by_token().values()) == ["ada@example.com", "eve@example.com"]
    calls = token_server.calls
    assert calls == 2
    token_server.answer(503)
    for number in range(8):
        fleet[number % 2].run(hosts.get_token, f"visitor{number}@example.com", GENEROUS_TIMEOUT)
    assert token_server.calls == calls + 5
    for host in (ahead, behind):
        host.run(hosts.get_token, "one-more@example.com", GENEROUS_TIMEOUT)
        assert host.run(hosts.is_open_locally)
    assert token_server.calls == calls + 5


@pytest.mark.flaky(reruns=1)  # on a busy machine the hosts make calls for longer, or fewer of them
def test_rate_limit_applies_to_all_hosts_together(
    fleet: list[Host], new_site: NewSite, token_server: TokenServer
) -> None:
    """Hosts under load together make no more calls than one host may make. A wrong clock at most doubles that."""
    for processes, most in ((fleet[1:], 1), (fleet, 2)):
        new_site(*processes, RATE_LIMIT=2, CACHE="memcached", PORTAL_ID=str(len(processes)))
        before = token_server.calls
        futures = [host.start(hosts.visit, f"host{number}", 2, 2.0, 0.02) for number, host in enumerate(processes)]
        views = sum(future.result(60)["views"] for future in futures)
        calls = token_server.calls - before
        assert views > 2 * calls
        assert 0.5 * 2 * WINDOW <= calls <= most * 2 * WINDOW


def test_host_that_dies_during_a_probe_delays_the_others_for_one_call(
    fleet: list[Host], backend: CacheBackend, new_site: NewSite, token_server: TokenServer
) -> None:
    """Its lock and its probe expire soon after TIMEOUT. Then another host makes the probe, and the visitor is
    identified.
    """
    probe_expires, lock_expires = 1.5, 2.0  # TIMEOUT and one second; the lock lasts for whole seconds
    other = fleet[1]
    with Host(settings_of(backend)) as dying:
        new_site(dying, TIMEOUT=0.5)
        token_server.answer(429, {"errorType": "RATE_LIMIT"}, {"Retry-After": "1"})
        dying.run(hosts.get_token, "eve@example.com")
        assert token_server.wait_for_calls(1)
        dying.run(hosts.rest)
        token_server.set_scenario("held")
        deadline = time.monotonic() + GENEROUS_TIMEOUT
        started = time.monotonic()
        while not token_server.wait_for_calls(2, 0.05) and time.monotonic() < deadline:
            started = time.monotonic()
            dying.run(hosts.get_token, "ada@example.com")
        dying.die()
    token_server.set_scenario("healthy")
    new_site(other)
    assert not other.run(hosts.allows_call) or time.monotonic() - started >= probe_expires
    token = other.run(hosts.get_token, "ada@example.com", 0.5)
    assert token is None or time.monotonic() - started >= lock_expires
    while token is None and time.monotonic() < deadline:
        token = other.run(hosts.get_token, "ada@example.com", 0.25)
        time.sleep(0.05)  # nothing announces that a cache key expires
    assert token is not None
    assert token_server.calls == 3
