"""Pages of asynchronous views: the tag raises no error and does not block the event loop."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, ClassVar

import jinja2
import pytest
from asgiref import testing
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.exceptions import SynchronousOnlyOperation
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import include, path
from django.utils.decorators import async_only_middleware
from pytest_django import Settings
from support.logs import logged
from support.pages import ENGINES, EXTENSION, ada, keep_token, render_django, request_by, script_attributes, subject_for

from hubspot_identify import services
from hubspot_identify.testing import fake_hubspot

pytestmark = pytest.mark.django_db


async def plain(request: HttpRequest, engine: str) -> HttpResponse:
    """An asynchronous view that passes no identity to its template."""
    return HttpResponse(ENGINES[engine](request))


async def identifying(request: HttpRequest, engine: str) -> HttpResponse:
    """An asynchronous view as the manual recommends it."""
    return HttpResponse(ENGINES[engine](request, identity=await services.aidentify(request)))


def synchronous(request: HttpRequest, engine: str) -> HttpResponse:
    return HttpResponse(ENGINES[engine](request))


async def blocking(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.user))


urlpatterns = [
    path("blocking/", blocking),
    path("hubspot/", include("hubspot_identify.urls")),
    path("plain/<str:engine>/", plain),
    path("identifying/<str:engine>/", identifying),
    path("synchronous/<str:engine>/", synchronous),
]


@async_only_middleware
def logged_in_as_ada(get_response: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> Callable[..., Any]:
    """Replace Django's middleware for sessions, because the database belongs to the thread of the test."""

    async def middleware(request: HttpRequest) -> HttpResponse:
        request.user = ada()
        return await get_response(request)

    return middleware


class WatchedCache(LocMemCache):
    """Records the threads that read it while they run an event loop."""

    in_the_loop: ClassVar[list[str]] = []

    def get(self, *arguments: Any, **options: Any) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            self.in_the_loop.append(threading.current_thread().name)
        return super().get(*arguments, **options)


@pytest.fixture(autouse=True)
def site(settings: Settings) -> Iterator[None]:
    """A site whose cache detects I/O in the event loop. Django detects that of the database."""
    settings.ROOT_URLCONF = __name__
    settings.CACHES = {"default": {"BACKEND": f"{__name__}.WatchedCache", "LOCATION": __name__}}
    WatchedCache.in_the_loop.clear()
    yield
    assert WatchedCache.in_the_loop == []


@pytest.fixture
def user(client: Client, async_client: AsyncClient) -> User:
    """A logged-in user with a session in the database."""
    user = ada()
    user.save()
    client.force_login(user)
    async_client.cookies = client.cookies
    return user


def deliver(settings: Settings, delivery: str) -> None:
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "DELIVERY": delivery}


def page(async_client: AsyncClient, url: str) -> dict[str, str]:
    response = async_to_sync(async_client.get)(url)
    assert response.status_code == 200
    return script_attributes(response.content.decode())


@pytest.mark.parametrize("view", ["plain", "identifying", "synchronous"])
def test_deferred_element_is_the_same_in_every_view(async_client: AsyncClient, user: User, view: str) -> None:
    """With deferred delivery, asynchronous views need no changes."""
    keep_token(user)
    assert page(async_client, f"/{view}/django/") == script_attributes(render_django(request_by()))


@pytest.mark.parametrize("url", ["/identifying/django/", "/identifying/jinja2/", "/synchronous/django/"])
def test_inline_page_has_the_awaited_identity(
    async_client: AsyncClient, user: User, settings: Settings, url: str
) -> None:
    """The identity that the view awaited is in the page. A synchronous view under ASGI needs no changes."""
    deliver(settings, "inline")
    identity = keep_token(user)
    attributes = page(async_client, url)
    shown = json.loads(attributes["data-identity"])
    assert {**shown, "expires_in": 0} == {**identity, "expires_in": 0}
    assert attributes["data-subject"] == subject_for(user)


def test_inline_page_waits_without_blocking_the_event_loop(async_client: AsyncClient, user: User) -> None:
    """While one page waits for a new visitor's token, the loop serves the page of an anonymous visitor."""
    with fake_hubspot(DELIVERY="inline", PAGE_WAIT=10, TIMEOUT=30) as hubspot:
        hubspot.hold()

        async def both() -> tuple[Any, Any]:
            waiting = asyncio.create_task(async_client.get("/identifying/django/"))
            other = await AsyncClient().get("/identifying/django/")
            assert not waiting.done()
            hubspot.release()
            return await waiting, other

        waited, other = async_to_sync(both)()
    assert json.loads(script_attributes(waited.content.decode())["data-identity"])["token"] in hubspot.tokens
    anonymous = script_attributes(other.content.decode())
    assert anonymous["data-subject"] == ""
    assert "data-identity" not in anonymous


def test_inline_page_without_awaited_identity_is_unidentified(
    async_client: AsyncClient, user: User, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """If the view passes no identity, the page has no subject either, and one WARNING says what to pass."""
    deliver(settings, "inline")
    keep_token(user)
    for _ in range(3):
        attributes = page(async_client, "/plain/django/")
        assert not {"data-identity", "data-subject"} & set(attributes)
        assert attributes["data-endpoint"] == "/hubspot/identity/"
    assert logged(caplog) == [("hubspot_identify.delivery", logging.WARNING)]
    assert "identity=await services.aidentify(request)" in caplog.text


def test_jinja_template_rendered_asynchronously(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """An asynchronous Jinja environment renders in the event loop as well."""
    deliver(settings, "inline")
    environment = jinja2.Environment(enable_async=True, autoescape=True, extensions=[EXTENSION])
    template = environment.from_string("{{ hubspot_identify(identity=identity) }}")
    request = request_by(ada())
    keep_token(ada())

    async def render() -> tuple[str, str]:
        identity = await services.aidentify(request)
        return await template.render_async(request=request), await template.render_async(
            request=request, identity=identity
        )

    without, with_identity = async_to_sync(render)()
    assert "data-identity" not in script_attributes(without)
    assert json.loads(script_attributes(with_identity)["data-identity"])["token"] == "token-of-ada"
    assert logged(caplog) == [("hubspot_identify.delivery", logging.WARNING)]


def test_blocking_access_in_the_event_loop_is_detected(async_client: AsyncClient, user: User) -> None:
    """The site of these tests raises when an asynchronous view reads the user, and records reads of the cache."""
    with pytest.raises(SynchronousOnlyOperation):
        async_to_sync(async_client.get)("/blocking/")

    async def read() -> None:
        caches["default"].get("key")

    async_to_sync(read)()
    assert len(WatchedCache.in_the_loop) == 1
    WatchedCache.in_the_loop.clear()


@pytest.mark.parametrize(("view", "token"), [("plain", None), ("identifying", "token-of-ada")])
def test_inline_page_of_the_asgi_handler(settings: Settings, view: str, token: str | None) -> None:
    """The result is the same in the handler that servers run, without Django's test client."""
    settings.MIDDLEWARE = [f"{__name__}.logged_in_as_ada"]
    deliver(settings, "inline")
    keep_token(ada())
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": f"/{view}/django/",
        "query_string": b"",
        "headers": [(b"host", b"testserver")],
    }

    async def get() -> tuple[int, bytes]:
        communicator: Any = testing.ApplicationCommunicator
        server = communicator(ASGIHandler(), scope)
        await server.send_input({"type": "http.request"})
        start, body = await server.receive_output(), await server.receive_output()
        await server.wait()
        return start["status"], body["body"]

    status, content = async_to_sync(get)()
    assert status == 200
    identity = script_attributes(content.decode()).get("data-identity", "{}")
    assert json.loads(identity).get("token") == token
