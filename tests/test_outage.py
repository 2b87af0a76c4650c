"""Failures of the cache; and, with two processes under load, an outage and the rate limit of HubSpot."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from pytest_django import Settings
from support import hosts
from support.caches import CLASSES, CacheBackend
from support.clocks import once_in_time
from support.hosts import Host, settings_of
from support.programs import free_port, require, serving
from support.server import Scenario, TokenServer, TokenServerProcess
from support.workers import wait_for_workers

from hubspot_identify import services
from hubspot_identify._hubspot import client
from hubspot_identify._tokens import breaker
from hubspot_identify._tokens.account import reset_accounts
from hubspot_identify._tokens.workers import SLOTS
from hubspot_identify.visitors import Visitor

pytestmark = pytest.mark.slow

PROCESSES, THREADS = 2, 4
#: A tenth of the real times, so that an outage of 20 s takes two.
SHORT_TIMES = {
    "_tokens.breaker.FAILURE_WINDOW": 3.0,
    "_tokens.breaker.COOL_DOWN": 1.5,
    "_hubspot.client.READ_TIMEOUT": 0.2,
}
REAL_TIMES = {
    "_tokens.breaker.FAILURE_WINDOW": breaker.FAILURE_WINDOW,
    "_tokens.breaker.COOL_DOWN": breaker.COOL_DOWN,
    "_hubspot.client.READ_TIMEOUT": client.READ_TIMEOUT,
}


@pytest.fixture(scope="module")
def backend(redis_url: str) -> CacheBackend:
    redis = {"BACKEND": f"django.core.cache.backends.{CLASSES['redis']}", "LOCATION": redis_url}
    return CacheBackend("redis", {"default": {**redis, "KEY_PREFIX": uuid.uuid4().hex}})


@pytest.fixture(scope="module")
def pair(backend: CacheBackend) -> Iterator[list[Host]]:
    """Two running processes over one cache."""
    with Host(settings_of(backend)) as one, Host(settings_of(backend)) as other:
        for future in [host.start(hosts.ready) for host in (one, other)]:
            assert future.result(60)
        yield [one, other]


def start_site(pair: list[Host], backend: CacheBackend, server: TokenServer) -> None:
    """Let both processes serve a new site with a Professional account."""
    site = settings_of(backend, API_KEY=f"key-{uuid.uuid4().hex}", BASE_URL=server.url, RATE_LIMIT=17)
    for host in pair:
        host.run(hosts.configure, site["HUBSPOT_IDENTIFY"])


def set_times(pair: list[Host], times: dict[str, float]) -> None:
    """Set constants of the app in both processes."""
    for host in pair:
        for name, seconds in times.items():
            host.run(hosts.change, name, seconds)


@pytest.mark.parametrize(("scenario", "status"), [("answer", 503), ("hang", None)])
def test_outage_under_load_causes_few_calls(
    pair: list[Host],
    backend: CacheBackend,
    token_server_process: TokenServerProcess,
    scenario: Scenario,
    status: int | None,
) -> None:
    """Five failed calls open the breaker, calls in progress end, and five failed probes open it again."""
    probes = 5  # after 1.2 to 1.8 s; the next would follow 2.4 s later

    def attempt() -> None:
        server = token_server_process.open()
        server.set_scenario(scenario, status=status)
        start_site(pair, backend, server)
        visits = [host.start(hosts.visit, f"host{number}", THREADS, 2.0, 0.01) for number, host in enumerate(pair)]
        views = sum(future.result(60)["views"] for future in visits)
        calls = server.calls
        server.close()
        assert 1 <= calls <= 5 + PROCESSES * SLOTS + probes
        assert views > 10 * calls  # pages that wait for their calls would make at most one view for each call

    set_times(pair, SHORT_TIMES)
    try:
        once_in_time(attempt)
    finally:
        set_times(pair, REAL_TIMES)


def test_many_log_ins_never_exceed_the_rate_limit_of_hubspot(
    pair: list[Host], backend: CacheBackend, token_server_process: TokenServerProcess
) -> None:
    """A Professional account allows 190 calls in any ten seconds, and RATE_LIMIT = 17 allows 170.

    More than 170 visitors log in. Nearly all calls that are allowed are made, and their tokens used.
    """

    def attempt() -> None:
        server = token_server_process.open()
        server.set_scenario("rate_limit", calls=190, seconds=10)
        start_site(pair, backend, server)
        log_ins = [host.start(hosts.log_in, f"host{number}", 250, 6.0, (0.4, 1.0)) for number, host in enumerate(pair)]
        identified = sum(future.result(90) for future in log_ins)
        calls = server.calls
        tokens = len(server.emails_by_token())
        server.close()
        assert tokens == calls  # none of them got a 429
        assert 120 <= calls <= 170
        assert identified >= 0.5 * calls  # the next pages of the other visitors find their tokens

    once_in_time(attempt)  # calls that are delayed on their way coincide with later ones


def visit(email: str) -> str | None:
    """Return the token of a visitor, after the browser has repeated its request if necessary."""
    services.get_token(Visitor(email))
    wait_for_workers()
    token = services.get_token(Visitor(email))
    return token.value if token else None


@pytest.mark.parametrize("fault", ["out of memory", "read-only", "ended"])
def test_known_visitors_stay_identified_while_redis_fails(
    hubspot: TokenServer, settings: Settings, tmp_path: Path, fault: str
) -> None:
    """A Redis that only refuses writes is still read. If it cannot be read, this process uses what it has read before.

    New visitors are identified as well, with one call each.
    """
    program = require("redis-server")
    with serving(lambda port: [program, "--port", str(port), "--save", ""], tmp_path / "log") as port:
        url = f"redis://127.0.0.1:{port}/0"
        settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": url}}
        known = [f"known{number}@example.com" for number in range(3)]
        tokens = [visit(email) for email in known]
        assert None not in tokens
        reset_accounts()  # as if in another process
        server = redis.Redis.from_url(url)
        if fault == "out of memory":
            server.config_set("maxmemory", 1)
        elif fault == "read-only":
            server.replicaof("127.0.0.1", free_port())
        else:
            assert [services.get_token(Visitor(email)) is not None for email in known] == [True] * len(known)
            server.shutdown(nosave=True)
        new = visit("new@example.com")
        assert new is not None
        assert [visit(email) for email in known] == tokens
        assert visit("new@example.com") == new
        assert hubspot.calls == len(known) + 1


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("django.core.cache.backends.dummy.DummyCache", {}),
        ("django.core.cache.backends.memcached.PyMemcacheCache", {"ignore_exc": True}),
        ("django_redis.cache.RedisCache", {"IGNORE_EXCEPTIONS": True}),
    ],
)
def test_visitor_is_identified_with_one_call_if_the_cache_silently_stores_nothing(
    hubspot: TokenServer, settings: Settings, backend: str, options: dict[str, Any]
) -> None:
    """The cache is a dummy cache, or ignores that its server is unreachable. The process keeps the token."""
    scheme = "redis://" if "redis" in backend else ""
    location = f"{scheme}127.0.0.1:{free_port()}"
    settings.CACHES = {"default": {"BACKEND": backend, "LOCATION": location, "OPTIONS": options}}
    token = visit("ada@example.com")
    assert token is not None
    assert [visit("ada@example.com") for _ in range(2)] == [token] * 2
    assert hubspot.calls == 1
