"""The asynchronous functions: the same results as the synchronous ones, without blocking the event loop."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

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
from support.app_settings import configure
from support.clocks import GENEROUS_TIMEOUT, SLACK, once_in_time
from support.faulty_cache import FaultyCache
from support.server import TokenServer, email_of
from support.workers import wait_for_workers

import hubspot_identify._hubspot.client  # so that no timed call has to import it  # noqa: F401
from hubspot_identify import identification, services
from hubspot_identify._tokens.workers import SLOTS
from hubspot_identify.exceptions import AuthenticationError, ConfigurationError, TransportError
from hubspot_identify.visitors import Visitor

ADA = Visitor("ada@example.com", "Ada")
NOW = 1_800_000_000.0


def user_of(email: str | None) -> SimpleNamespace:
    return SimpleNamespace(pk=1, is_authenticated=email is not None, email=email, first_name="", last_name="")


def request_of(email: str | None = ADA.email) -> Any:
    request: Any = AsyncRequestFactory().get("/")
    request.session = {}
    request.user = user_of(email)
    return request


async def result_and_longest_block(awaitable: Awaitable[object]) -> tuple[object, float]:
    """Return the result or exception of an awaitable, and the longest time for which it blocked the event loop."""
    longest, last = 0.0, time.monotonic()
    task = asyncio.ensure_future(awaitable)
    while not task.done():
        await asyncio.sleep(0.005)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return (task.exception() or task.result()), longest


# The same results


def test_asynchronous_functions_return_what_the_synchronous_ones_do(
    hubspot: TokenServer, faulty_cache: type[FaultyCache]
) -> None:
    """They use the cache only from other threads."""

    async def main() -> object:
        created = await services.acreate_token(ADA)
        assert email_of(created.value) == ADA.email
        assert await services.aget_token(ADA) is None
        token = await services.aget_token(ADA, wait=GENEROUS_TIMEOUT)
        assert token is not None
        assert token != created
        found = await services.aidentify(request_of())
        assert found.identity is not None
        assert found.identity["token"] == token.value
        return found

    with time_machine.travel(NOW, tick=False):
        found = asyncio.run(main())
        wait_for_workers()
        assert faulty_cache.count() > 3
        assert faulty_cache.count("MainThread") == 0
        assert found == services.identify(request_of())
        asyncio.run(services.aforget_token(ADA))
        assert faulty_cache.count("MainThread") == 1
        assert services.get_token(ADA) is None
    assert hubspot.calls == 2


def test_anonymous_visitors_and_disabled_app_cause_no_call(hubspot: TokenServer, settings: Settings) -> None:
    """Without a visitor or with ``ENABLED`` set to ``False``, only ``acreate_token()`` raises."""

    async def main() -> None:
        assert await services.aidentify(request_of(None)) is identification.ANONYMOUS
        settings.HUBSPOT_IDENTIFY = {"ENABLED": False}
        assert (await services.aidentify(request_of())).as_dict() == {"enabled": False}
        assert await services.aget_token(ADA) is None
        with pytest.raises(ConfigurationError):
            await services.acreate_token(ADA)

    asyncio.run(main())
    assert hubspot.calls == 0


def test_errors_are_those_of_the_synchronous_functions(hubspot: TokenServer) -> None:
    """``acreate_token()`` raises HubSpot's errors, ``aget_token()`` does not, and wrong arguments raise at once."""
    hubspot.reject_key()
    no_visitor: Any = "ada@example.com"

    async def main() -> None:
        with pytest.raises(AuthenticationError):
            await services.acreate_token(ADA)
        assert await services.aget_token(ADA, wait=GENEROUS_TIMEOUT) is None
        with pytest.raises(ValueError, match="wait"):
            await services.aget_token(ADA, wait=-1)
        with pytest.raises(ValueError, match="wait"):
            await services.aidentify(request_of(None), wait=-1)
        with pytest.raises(TypeError):
            await services.aforget_token(no_visitor)

    asyncio.run(main())


def test_tasks_that_wait_for_the_same_token_share_one_call(hubspot: TokenServer) -> None:
    """Fifty tasks of one event loop wait for the token of one visitor."""
    hubspot.set_scenario("healthy", latency=0.05)

    async def main() -> list[object]:
        return await asyncio.gather(*(services.aget_token(ADA, wait=GENEROUS_TIMEOUT) for _ in range(50)))

    tokens = set(asyncio.run(main()))
    assert len(tokens) == 1
    assert None not in tokens
    assert hubspot.calls == 1


# The event loop is not blocked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "seconds"),
    [
        (lambda visitor: services.acreate_token(visitor), 0.4),
        (lambda visitor: services.aidentify(request_of(visitor.email), wait=0.3), 0.3),
    ],
)
def test_event_loop_is_not_blocked_while_hubspot_hangs(
    hubspot: TokenServer, settings: Settings, call: Callable[[Visitor], Awaitable[object]], seconds: float
) -> None:
    """The caller gets its result in time, and other tasks run in the meantime."""
    hubspot.set_scenario("hang")
    configure(settings, TIMEOUT=0.4)
    numbers = itertools.count()

    async def main() -> None:
        visitor = Visitor(f"visitor{next(numbers)}@example.com")  # another one each time, since failures are recorded
        started = time.monotonic()
        result, blocked = await result_and_longest_block(call(visitor))
        assert seconds - 0.05 <= time.monotonic() - started < seconds + SLACK
        assert blocked < seconds / 2
        assert not isinstance(result, Exception) or isinstance(result, TransportError)

    once_in_time(lambda: asyncio.run(main()))


def test_waiting_for_a_free_worker_does_not_block_the_event_loop(hubspot: TokenServer, settings: Settings) -> None:
    """All workers are busy: ``acreate_token()`` waits for ``TIMEOUT`` and raises an error without a call."""
    hubspot.set_scenario("held")
    for number in range(SLOTS):
        services.get_token(Visitor(f"visitor{number}@example.com"))
    assert hubspot.wait_for_calls(SLOTS)
    configure(settings, TIMEOUT=0.2)

    async def main() -> None:
        result, blocked = await result_and_longest_block(services.acreate_token(ADA))
        assert isinstance(result, TransportError)
        assert blocked < 0.1

    once_in_time(lambda: asyncio.run(main()))
    assert hubspot.calls == SLOTS
    hubspot.release()


def test_cancelled_task_does_not_cancel_the_fetch(hubspot: TokenServer) -> None:
    """The visitor closed the page. Another task that waits for the same token gets it, and so does the cache."""
    hubspot.set_scenario("held")

    async def main() -> object:
        leaving, staying = (asyncio.create_task(services.aget_token(ADA, wait=GENEROUS_TIMEOUT)) for _ in range(2))
        assert await asyncio.to_thread(hubspot.wait_for_calls, 1)
        await asyncio.sleep(0.02)  # both tasks are waiting for the worker by then
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


async def page_without_identity(request: HttpRequest) -> HttpResponse:
    """An asynchronous view whose template has the tag without an argument."""
    template = Template("{% load hubspot_identify %}{% hubspot_identify %}")
    return HttpResponse(template.render(Context({"request": request})))


async def page_with_identity(request: HttpRequest) -> HttpResponse:
    """An asynchronous view as the README shows it for inline delivery."""
    template = Template("{% load hubspot_identify %}{% hubspot_identify identity=identity %}")
    identity = await services.aidentify(request)
    return HttpResponse(template.render(Context({"request": request, "identity": identity})))


class LazyUserMiddleware:
    """Sets a user who must not be loaded in the event loop, as with Django's own middleware."""

    sync_capable, async_capable = False, True

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> None:
        self.get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request: Any) -> HttpResponse:
        request.session = {}
        request.user = SimpleLazyObject(async_unsafe(lambda: user_of(ADA.email)))
        return await self.get_response(request)


urlpatterns = [
    path("without-identity/", page_without_identity),
    path("with-identity/", page_with_identity),
    path("hubspot/", include("hubspot_identify.urls")),
]


@pytest.fixture
def site(hubspot: TokenServer, settings: Settings) -> TokenServer:
    """A site of asynchronous views."""
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [f"{__name__}.LazyUserMiddleware"]
    return hubspot


def get(url: str, **headers: str) -> Any:
    async def main() -> Any:
        return await AsyncClient().get(url, headers=headers)

    return asyncio.run(main())


def test_deferred_delivery_works_in_asynchronous_views(site: TokenServer) -> None:
    """The tag renders the endpoint's URL, and the endpoint responds as it does on other sites."""
    assert 'data-endpoint="/hubspot/identity/"' in get("/without-identity/").content.decode()
    for status in (202, 200):
        response = get("/hubspot/identity/", **{"X-HubSpot-Identify": "1"})
        assert response.status_code == status
        wait_for_workers()
    assert ADA.email in response.content.decode()


@pytest.mark.parametrize("cache_backend", ["database"], indirect=True)
@pytest.mark.usefixtures("cache_backend", "site")
def test_inline_delivery_works_in_asynchronous_views(settings: Settings) -> None:
    """User and database cache are accessed outside the event loop, and the page contains the identity."""
    configure(settings, DELIVERY="inline", PAGE_WAIT=5)
    page = get("/with-identity/").content.decode()
    assert "data-identity" in page
    assert ADA.email in page


def test_asynchronous_inline_page_without_the_argument_is_anonymous(
    site: TokenServer, settings: Settings, faulty_cache: type[FaultyCache], caplog: pytest.LogCaptureFixture
) -> None:
    """There is neither an exception nor I/O in the event loop, and the log shows what to pass to the tag."""
    configure(settings, DELIVERY="inline")
    page = get("/without-identity/").content.decode()
    assert "<script" in page
    assert "data-identity" not in page
    assert "identity=await services.aidentify(request)" in caplog.text
    assert (faulty_cache.asked, site.calls) == ([], 0)
