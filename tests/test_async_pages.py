"""Pages of asynchronous views: no delivery raises there, and none blocks the event loop."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, ClassVar

import jinja2
import pytest
from asgiref.sync import async_to_sync
from asgiref.testing import ApplicationCommunicator
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
from support.pages import ENGINES, EXTENSION, ada, keep_token, render_django, request_by, script_attributes, subject_for

from hubspot_identify import services
from hubspot_identify.testing import fake_hubspot

pytestmark = pytest.mark.django_db

WHY = (
    "A template rendered in an asynchronous view can't ask who the visitor is: pass "
    "identity=await services.aidentify(request) to the tag, or use deferred delivery."
)


async def plain(request: HttpRequest, engine: str) -> HttpResponse:
    """The page of somebody who doesn't know that the view is asynchronous."""
    return HttpResponse(ENGINES[engine](request))


async def asking(request: HttpRequest, engine: str) -> HttpResponse:
    """The page as the manual has it."""
    return HttpResponse(ENGINES[engine](request, identity=await services.aidentify(request)))


def synchronous(request: HttpRequest, engine: str) -> HttpResponse:
    return HttpResponse(ENGINES[engine](request))


async def curious(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.user))


urlpatterns = [
    path("curious/", curious),
    path("hubspot/", include("hubspot_identify.urls")),
    path("plain/<str:engine>/", plain),
    path("asking/<str:engine>/", asking),
    path("synchronous/<str:engine>/", synchronous),
]


@async_only_middleware
def ada_is_here(get_response: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> Callable[..., Any]:
    """Middleware in place of Django's for sessions, whose database belongs to the thread of the test."""

    async def middleware(request: HttpRequest) -> HttpResponse:
        request.user = ada()
        return await get_response(request)

    return middleware


class WatchedCache(LocMemCache):
    """Notes in which threads it is read while an event loop runs there."""

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
    """A site whose cache notices I/O in the event loop; Django itself notices that of the database."""
    settings.ROOT_URLCONF = __name__
    settings.CACHES = {"default": {"BACKEND": f"{__name__}.WatchedCache", "LOCATION": __name__}}
    WatchedCache.in_the_loop.clear()
    yield
    assert WatchedCache.in_the_loop == []


@pytest.fixture
def user(client: Client, async_client: AsyncClient) -> User:
    """Ada, logged in, with real sessions in the database."""
    user = ada()
    user.save()
    client.force_login(user)
    async_client.cookies = client.cookies
    return user


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def deliver(settings: Settings, delivery: str) -> None:
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "DELIVERY": delivery}


def page(async_client: AsyncClient, url: str) -> dict[str, str]:
    response = async_to_sync(async_client.get)(url)
    assert response.status_code == 200
    return script_attributes(response.content.decode())


@pytest.mark.parametrize("view", ["plain", "asking", "synchronous"])
def test_deferred(async_client: AsyncClient, user: User, engine: str, view: str) -> None:
    """Deferred needs nothing: the element is the same in asynchronous views."""
    keep_token(user)
    assert page(async_client, f"/{view}/{engine}/") == script_attributes(render_django(request_by()))


@pytest.mark.parametrize("view", ["asking", "synchronous"])
def test_inline(async_client: AsyncClient, user: User, settings: Settings, engine: str, view: str) -> None:
    """Inline, the identity that the view awaited is in the page; a synchronous view under ASGI needs no help."""
    deliver(settings, "inline")
    identity = keep_token(user)
    attributes = page(async_client, f"/{view}/{engine}/")
    shown = json.loads(attributes["data-identity"])
    assert {**shown, "expires_in": 0} == {**identity, "expires_in": 0}
    assert attributes["data-subject"] == subject_for(user)


def test_inline_of_nobody(async_client: AsyncClient, settings: Settings, engine: str) -> None:
    """An anonymous visitor's asynchronous page says so."""
    deliver(settings, "inline")
    attributes = page(async_client, f"/asking/{engine}/")
    assert attributes["data-subject"] == ""
    assert "data-identity" not in attributes


def test_inline_waits_without_blocking(async_client: AsyncClient, user: User, engine: str) -> None:
    """While one page waits for a new visitor's token, the loop serves others."""
    with fake_hubspot(DELIVERY="inline", PAGE_WAIT=10, TIMEOUT=30) as hubspot:
        hubspot.hold()

        async def both() -> tuple[HttpResponse, HttpResponse]:
            waiting = asyncio.create_task(async_client.get(f"/asking/{engine}/"))
            other = await AsyncClient().get(f"/asking/{engine}/")
            assert not waiting.done()
            hubspot.release()
            return await waiting, other

        waited, other = async_to_sync(both)()
    assert json.loads(script_attributes(waited.content.decode())["data-identity"])["token"] in hubspot.tokens
    assert script_attributes(other.content.decode())["data-subject"] == ""


def test_inline_without_the_views_help(
    async_client: AsyncClient, user: User, settings: Settings, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The page is there, unidentified and not saying that it's nobody's, and the log says why, once."""
    deliver(settings, "inline")
    keep_token(user)
    for _ in range(3):
        attributes = page(async_client, f"/plain/{engine}/")
        assert not {"data-identity", "data-subject"} & set(attributes)
        assert attributes["data-endpoint"] == "/hubspot/identity/"
    ours = [record for record in caplog.record_tuples if record[0].startswith("hubspot_identify")]
    assert ours == [("hubspot_identify.widget", logging.WARNING, WHY)]


def test_jinja_rendered_asynchronously(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """An asynchronous Jinja environment renders in the loop, too."""
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
    assert WHY in caplog.text


def test_these_tests_would_notice(async_client: AsyncClient, user: User) -> None:
    """A look at the user in an asynchronous view raises, and one into the cache is noted."""
    with pytest.raises(SynchronousOnlyOperation):
        async_to_sync(async_client.get)("/curious/")

    async def look() -> None:
        caches["default"].get("key")

    async_to_sync(look)()
    assert len(WatchedCache.in_the_loop) == 1
    WatchedCache.in_the_loop.clear()


@pytest.mark.parametrize(("delivery", "view"), [("deferred", "plain"), ("inline", "plain"), ("inline", "asking")])
def test_asgi_handler(settings: Settings, engine: str, delivery: str, view: str) -> None:
    """The same holds in the handler that servers run, without Django's test client."""
    settings.MIDDLEWARE = [f"{__name__}.ada_is_here"]
    deliver(settings, delivery)
    keep_token(ada())
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": f"/{view}/{engine}/",
        "query_string": b"",
        "headers": [(b"host", b"testserver")],
    }

    async def get() -> tuple[int, bytes]:
        server = ApplicationCommunicator(ASGIHandler(), scope)
        await server.send_input({"type": "http.request"})
        start, body = await server.receive_output(), await server.receive_output()
        await server.wait()
        return start["status"], body["body"]

    status, content = async_to_sync(get)()
    assert status == 200
    identity = script_attributes(content.decode()).get("data-identity", "{}")
    assert json.loads(identity).get("token") == ("token-of-ada" if view == "asking" else None)
