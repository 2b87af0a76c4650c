"""The asynchronous twins: the same answers, without blocking the loop and without touching it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest
import time_machine
from asgiref.sync import markcoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.template import Context, Template
from django.test import AsyncClient, AsyncRequestFactory
from django.urls import include, path
from django.utils.asyncio import async_unsafe
from django.utils.functional import SimpleLazyObject
from pytest_django import Settings
from support.caches import CacheBackend
from support.clocks import GENEROUS_TIMEOUT, SLACK, once_in_time
from support.faulty_cache import FaultyCache
from support.server import TokenServer, email_of
from support.workers import wait_for_workers

import hubspot_identify.client  # so that no first call has to  # noqa: F401
from hubspot_identify import services
from hubspot_identify.background import SLOTS
from hubspot_identify.exceptions import AuthenticationError, ConfigurationError, TransportError
from hubspot_identify.visitors import Visitor

ADA = Visitor("ada@example.com", "Ada")
NOW = 1_800_000_000.0


def change(settings: Settings, **changes: object) -> None:
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **changes}


def user_of(email: str | None) -> SimpleNamespace:
    return SimpleNamespace(pk=1, is_authenticated=email is not None, email=email, first_name="", last_name="")


def request_of(email: str | None = ADA.email) -> HttpRequest:
    request = AsyncRequestFactory().get("/")
    request.session = {}
    request.user = user_of(email)
    return request


async def longest_pause(awaitable: Awaitable[object]) -> tuple[object, float]:
    """The result of something, and for how long the loop did nothing else while it was made."""
    longest, last = 0.0, time.monotonic()
    task = asyncio.ensure_future(awaitable)
    while not task.done():
        await asyncio.sleep(0.005)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return (task.exception() or task.result()), longest


# The same answers


def test_the_twins_answer_alike(hubspot: TokenServer) -> None:
    """``acreate_token``, ``aget_token``, ``aidentify``, ``aforget_token``: what their twins would say."""

    async def main() -> None:
        made = await services.acreate_token(ADA)
        assert email_of(made.value) == ADA.email
        assert await services.aget_token(ADA) is None
        token = await services.aget_token(ADA, wait=GENEROUS_TIMEOUT)
        assert token is not None
        assert token != made
        found = await services.aidentify(request_of())
        assert found.identity is not None
        assert found.identity["token"] == token.value
        assert found == services.identify(request_of())
        await services.aforget_token(ADA)

    with time_machine.travel(NOW, tick=False):
        asyncio.run(main())
        wait_for_workers()
        assert services.get_token(ADA) is None
    assert hubspot.calls == 2


def test_nobody_and_switched_off(hubspot: TokenServer, settings: Settings) -> None:
    """No visitor, no call; switched off, no token."""

    async def main() -> None:
        assert await services.aidentify(request_of(None)) is services.NOBODY
        settings.HUBSPOT_IDENTIFY = {"ENABLED": False}
        assert await services.aget_token(ADA) is None
        with pytest.raises(ConfigurationError):
            await services.acreate_token(ADA)

    asyncio.run(main())
    assert hubspot.calls == 0


def test_errors_are_the_same(hubspot: TokenServer) -> None:
    """Raised where a token was insisted on, and ``None`` where not; wrong arguments are said at once."""
    hubspot.reject_key()

    async def main() -> None:
        with pytest.raises(AuthenticationError):
            await services.acreate_token(ADA)
        assert await services.aget_token(ADA, wait=GENEROUS_TIMEOUT) is None
        with pytest.raises(ValueError, match="wait"):
            await services.aget_token(ADA, wait=-1)
        with pytest.raises(ValueError, match="wait"):
            await services.aidentify(request_of(None), wait=-1)
        with pytest.raises(TypeError, match="visitor"):
            await services.aforget_token("ada@example.com")  # type: ignore[arg-type]

    asyncio.run(main())


def test_many_await_one_job(hubspot: TokenServer) -> None:
    """Fifty tasks of a loop that want the same token: one call."""
    hubspot.set_scenario("healthy", latency=0.1)

    async def main() -> list[object]:
        return await asyncio.gather(*(services.aget_token(ADA, wait=GENEROUS_TIMEOUT) for _ in range(50)))

    tokens = set(asyncio.run(main()))
    assert len(tokens) == 1
    assert None not in tokens
    assert hubspot.calls == 1


# The loop goes on


@pytest.mark.parametrize(
    ("ask", "seconds"),
    [
        (lambda visitor: services.acreate_token(visitor), 0.5),
        (lambda visitor: services.aget_token(visitor, wait=0.4), 0.4),
        (lambda visitor: services.aidentify(request_of(visitor.email), wait=0.4), 0.4),
    ],
)
def test_the_loop_is_never_blocked(
    hubspot: TokenServer, settings: Settings, ask: Callable[[Visitor], Awaitable[object]], seconds: float
) -> None:
    """HubSpot hangs; the waiter is released in time, and everybody else did not notice."""
    hubspot.set_scenario("hang")
    change(settings, TIMEOUT=0.5)
    numbers = itertools.count()

    async def main() -> None:
        visitor = Visitor(f"visitor{next(numbers)}@example.com")  # new each time, since a failure is remembered
        started = time.monotonic()
        result, pause = await longest_pause(ask(visitor))
        assert seconds - 0.05 <= time.monotonic() - started < seconds + SLACK
        assert pause < seconds / 2
        assert not isinstance(result, Exception) or isinstance(result, TransportError)

    once_in_time(lambda: asyncio.run(main()))


def test_busy_workers_do_not_block_the_loop(hubspot: TokenServer, settings: Settings) -> None:
    """Who insists on a token waits for a free worker, and lets the others go on meanwhile."""
    hubspot.set_scenario("held")
    for number in range(SLOTS):
        services.get_token(Visitor(f"visitor{number}@example.com"))
    change(settings, TIMEOUT=0.4)

    async def main() -> None:
        result, pause = await longest_pause(services.acreate_token(ADA))
        assert isinstance(result, TransportError)
        assert "All workers were busy" in str(result)
        assert pause < 0.2

    once_in_time(lambda: asyncio.run(main()))
    hubspot.release()


def test_a_cancelled_waiter_harms_nobody(hubspot: TokenServer) -> None:
    """The visitor closed the page; who waits for the same token gets it, and the cache too."""
    hubspot.set_scenario("held")

    async def main() -> object:
        leaving, staying = (asyncio.create_task(services.aget_token(ADA, wait=GENEROUS_TIMEOUT)) for _ in range(2))
        assert await asyncio.to_thread(hubspot.wait_for_calls, 1)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        hubspot.release()
        return await staying

    token = asyncio.run(main())
    wait_for_workers()
    assert token is not None
    assert services.get_token(ADA) == token
    assert hubspot.calls == 1


# Pages


async def deferred_page(request: HttpRequest) -> HttpResponse:
    """An asynchronous view that knows nothing of us but the tag in its template."""
    template = Template("{% load hubspot_identify %}{% hubspot_identify %}")
    return HttpResponse(template.render(Context({"request": request})))


async def inline_page(request: HttpRequest) -> HttpResponse:
    """As the README has it."""
    template = Template("{% load hubspot_identify %}{% hubspot_identify identity=identity %}")
    identity = await services.aidentify(request)
    return HttpResponse(template.render(Context({"request": request, "identity": identity})))


class UserOf:
    """Middleware: the session of a user whose row is fetched when somebody looks, by Django's own rules."""

    sync_capable, async_capable = False, True

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> None:
        self.get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        request.session = {}  # type: ignore[assignment]
        request.user = SimpleLazyObject(async_unsafe(lambda: user_of(ADA.email)))  # type: ignore[assignment]
        return await self.get_response(request)


urlpatterns = [
    path("deferred/", deferred_page),
    path("inline/", inline_page),
    path("unaware/", deferred_page),
    path("hubspot/", include("hubspot_identify.urls")),
]


@pytest.fixture
def site(hubspot: TokenServer, settings: Settings) -> TokenServer:
    """A site of asynchronous views."""
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [f"{__name__}.UserOf"]
    return hubspot


def get(address: str, **headers: str) -> HttpResponse:
    async def main() -> HttpResponse:
        return await AsyncClient().get(address, headers=headers)  # type: ignore[return-value]

    return asyncio.run(main())


def test_a_deferred_page_in_an_asynchronous_view(site: TokenServer) -> None:
    """The tag needs nothing, and the endpoint is served as everywhere."""
    assert 'data-endpoint="/hubspot/identity/"' in get("/deferred/").content.decode()
    for status in (202, 200):
        answer = get("/hubspot/identity/", **{"X-HubSpot-Identify": "1"})
        assert answer.status_code == status
        wait_for_workers()
    assert ADA.email in answer.content.decode()


@pytest.mark.parametrize("cache_backend", ["locmem", "database"], indirect=True)
def test_an_inline_page_in_an_asynchronous_view(
    site: TokenServer, cache_backend: CacheBackend, settings: Settings
) -> None:
    """User and cache are looked at outside of the loop; the page carries the identity."""
    change(settings, DELIVERY="inline", PAGE_WAIT=5)
    page = get("/inline/").content.decode()
    assert "data-identity" in page
    assert ADA.email in page


def test_an_inline_page_that_forgot_is_unidentified(
    site: TokenServer, settings: Settings, faulty_cache: type[FaultyCache], caplog: pytest.LogCaptureFixture
) -> None:
    """No exception, no I/O in the loop, and the log says what to pass to the tag."""
    change(settings, DELIVERY="inline")
    page = get("/unaware/").content.decode()
    assert "<script" in page
    assert "data-identity" not in page
    assert "identity=await services.aidentify(request)" in caplog.text
    assert (faulty_cache.asked, site.calls) == ([], 0)


def test_no_cache_operation_in_the_loop(hubspot: TokenServer, faulty_cache: type[FaultyCache]) -> None:
    """All twins ask the cache from threads."""

    async def main() -> None:
        await services.aget_token(ADA, wait=GENEROUS_TIMEOUT)
        await services.aidentify(request_of())
        await services.aforget_token(ADA)

    asyncio.run(main())
    wait_for_workers()
    assert faulty_cache.count() > 3
    assert faulty_cache.count("MainThread") == 0
