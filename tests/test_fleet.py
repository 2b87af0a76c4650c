"""Many processes, on one host or several, that know of each other through the shared cache alone."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from support import hosts
from support.caches import SHARED_BACKENDS, CacheBackend
from support.clocks import GENEROUS_TIMEOUT, once_in_time
from support.hosts import Host, settings_of
from support.server import TokenServer

NewHosts = Callable[..., list[Host]]

LIFE = 4.0  # seconds, of a lock or a probe


@pytest.fixture
def new_hosts(cache_backend: CacheBackend, token_server: TokenServer) -> Iterator[NewHosts]:
    """Starts so many processes over the test's cache, ready to be asked."""
    with contextlib.ExitStack() as stack:

        def start(number: int, **app_settings: object) -> list[Host]:
            settings = settings_of(cache_backend, BASE_URL=token_server.url, **app_settings)
            started = [stack.enter_context(Host(settings)) for _ in range(number)]
            for future in [host.start(hosts.ready) for host in started]:
                assert future.result(60)
            return started

        yield start


@pytest.mark.parametrize(
    ("cache_backend", "most"), [*((name, 1) for name in SHARED_BACKENDS), ("locmem", 4)], indirect=["cache_backend"]
)
def test_200_first_requests_of_one_visitor_in_four_processes(
    new_hosts: NewHosts, token_server: TokenServer, most: int
) -> None:
    """One call where the cache is shared, one a process where it is not. All go on before HubSpot answers."""
    token_server.set_scenario("held")
    fleet = new_hosts(4, TIMEOUT=30)
    for host in fleet:
        host.run(hosts.change, "client.READ_TIMEOUT", 120.0)
    stampedes = [host.start(hosts.stampede, "ada@example.com", 50) for host in fleet]
    assert [future.result(60) for future in stampedes] == [[None] * 50] * 4
    token_server.release()
    for host in fleet:
        host.run(hosts.rest)
    assert 1 <= token_server.calls <= most
    tokens = {host.run(hosts.get_token, "ada@example.com") for host in fleet}
    assert tokens == set(token_server.emails_by_token())


@pytest.mark.parametrize("cache_backend", ["redis"], indirect=True)
def test_one_breaker(new_hosts: NewHosts, token_server: TokenServer) -> None:
    """Failures of different hosts add up, and all of them leave HubSpot alone."""
    fleet = new_hosts(2)
    token_server.answer(503)
    for number in range(8):
        fleet[number % 2].run(hosts.get_token, f"visitor{number}@example.com", 5)
    assert token_server.calls == 5
    for host in fleet:
        host.run(hosts.get_token, "one-more@example.com", 5)
        assert host.run(hosts.is_open_locally)
    assert token_server.calls == 5


@pytest.mark.parametrize("cache_backend", ["memcached"], indirect=True)
def test_one_rate_window(new_hosts: NewHosts, token_server: TokenServer) -> None:
    """Three hosts under load call no more often in any second than one may; a host's clock may be 5 s ahead."""
    fleet = new_hosts(3, RATE_LIMIT=5)
    fleet[0].run(hosts.set_clock, 5.0)
    for number in range(6):  # until each has seen the others' time
        fleet[number % 3].run(hosts.allows_call)

    def attempt() -> None:
        before = token_server.calls  # and so many visitors have a token already
        futures = [host.start(hosts.visit, f"host{number}-{before}", 2, 3.0, 0.02) for number, host in enumerate(fleet)]
        views = sum(future.result(60)["views"] for future in futures)
        arrivals = [request.at for request in token_server.requests()[before:]]
        assert views > 2 * len(arrivals)
        # A second of the hosts' begins anywhere in one of ours, so two of theirs can meet in it.
        in_a_second = max(sum(at <= other < at + 1 for other in arrivals) for at in arrivals)
        assert in_a_second <= 2 * 5
        assert 2 * 5 <= len(arrivals) <= 5 * 5

    once_in_time(attempt)  # calls that are held up on their way meet those of the next second


@pytest.mark.parametrize("cache_backend", ["redis"], indirect=True)
def test_a_host_that_dies_with_a_lock(new_hosts: NewHosts, token_server: TokenServer) -> None:
    """Its visitor gets a token from another host, no later than the lock's life of four seconds."""
    dying, other = new_hosts(2)
    started = time.monotonic()
    dying.run(hosts.hold_lock, "ada@example.com")
    dying.die()
    token = other.run(hosts.get_token, "ada@example.com", 1.0)
    assert token is None or time.monotonic() - started >= LIFE
    while token is None and time.monotonic() - started < GENEROUS_TIMEOUT:
        token = other.run(hosts.get_token, "ada@example.com", 0.25)
        time.sleep(0.05)  # as a browser does between two questions
    assert token is not None
    assert token_server.calls == 1


@pytest.mark.parametrize("cache_backend", ["redis"], indirect=True)
def test_a_host_that_dies_with_the_probe(new_hosts: NewHosts, token_server: TokenServer) -> None:
    """Another host probes as soon as the first could have been done with it."""
    dying, other = new_hosts(2)
    token_server.answer(429, {"errorType": "RATE_LIMIT"}, {"Retry-After": "1"})
    dying.run(hosts.get_token, "ada@example.com", 5)
    token_server.set_scenario("healthy")
    until = time.monotonic() + GENEROUS_TIMEOUT
    while not dying.run(hosts.allows_call) and time.monotonic() < until:
        pass
    probed = time.monotonic()
    dying.die()
    assert not other.run(hosts.allows_call) or time.monotonic() - probed >= LIFE
    while not (allowed := other.run(hosts.allows_call)) and time.monotonic() - probed < GENEROUS_TIMEOUT:
        time.sleep(0.05)  # nothing tells of a cache key that expires
    assert allowed


@pytest.mark.parametrize("cache_backend", ["redis"], indirect=True)
def test_clocks_five_seconds_apart(new_hosts: NewHosts, token_server: TokenServer) -> None:
    """Each host uses the other's tokens, and each other's breaker."""
    ahead, behind = new_hosts(2)
    ahead.run(hosts.set_clock, 5.0)
    for one, other, email in ((ahead, behind, "ada@example.com"), (behind, ahead, "eve@example.com")):
        token = one.run(hosts.get_token, email, 5)
        assert token is not None
        assert other.run(hosts.get_token, email) == token
    assert Counter(request.json()["email"] for request in token_server.requests()) == {
        "ada@example.com": 1,
        "eve@example.com": 1,
    }
    token_server.reject_key()
    ahead.run(hosts.get_token, "joe@example.com", 5)
    assert not behind.run(hosts.allows_call)
    assert not ahead.run(hosts.allows_call)
