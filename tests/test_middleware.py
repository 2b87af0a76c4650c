"""``IdentifiedPageMiddleware``: pages that say who their visitor is belong to that visitor's browser alone."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from pytest_django import Settings
from support.pages import ada, keep_token, render_django, request_by, script_attributes

from hubspot_identify.middleware import IdentifiedPageMiddleware
from hubspot_identify.services import aidentify, identify
from hubspot_identify.testing import fake_hubspot

CACHEABLE = {
    "Cache-Control": "public, max-age=600, s-maxage=6000",
    "Expires": "Wed, 21 Oct 2099 07:28:00 GMT",
    "CDN-Cache-Control": "max-age=600",
    "Cloudflare-CDN-Cache-Control": "max-age=600",
    "Surrogate-Control": "max-age=600",
    "X-Accel-Expires": "600",
    "Edge-Control": "max-age=600",
    "Fastly-Surrogate-Control": "max-age=600",
    "X-LiteSpeed-Cache-Control": "public, max-age=600",
    "X-Cache-TTL": "600",
    "ETag": '"1"',
    "Vary": "Accept-Language",
}
KEPT = {"Content-Type": "text/html; charset=utf-8", "ETag": '"1"', "Vary": "Accept-Language"}
PRIVATE = {**KEPT, "Cache-Control": "private, no-store"}


@pytest.fixture(autouse=True)
def inline(settings: Settings) -> None:
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "DELIVERY": "inline"}


def page(request: HttpRequest) -> HttpResponse:
    """A view that would have its page cached by everybody."""
    return HttpResponse(render_django(request), headers=CACHEABLE)


def through_sync(request: HttpRequest, view: Callable[[HttpRequest], Any] = page) -> HttpResponseBase:
    middleware = IdentifiedPageMiddleware(view)
    assert not iscoroutinefunction(middleware)
    response = middleware(request)
    assert isinstance(response, HttpResponseBase)
    return response


def through_async(request: HttpRequest, view: Callable[[HttpRequest], Any] = page) -> HttpResponseBase:
    response = view(request)

    async def async_view(request: HttpRequest) -> HttpResponse:
        return response

    middleware = IdentifiedPageMiddleware(async_view)
    assert iscoroutinefunction(middleware)
    return async_to_sync(middleware)(request)  # type: ignore[arg-type]


@pytest.fixture(params=[through_sync, through_async])
def through(request: pytest.FixtureRequest) -> Callable[..., HttpResponseBase]:
    """The middleware in a synchronous and in an asynchronous chain."""
    return request.param


def test_identified_page_is_private(through: Callable[..., HttpResponseBase]) -> None:
    """Whatever the view had set for browsers and CDNs, a page with an identity is nobody else's."""
    keep_token(ada())
    assert dict(through(request_by(ada())).headers) == PRIVATE


@pytest.mark.parametrize("delivery", ["inline", "deferred"])
def test_what_a_view_of_the_sites_own_says_is_private(
    through: Callable[..., HttpResponseBase], settings: Settings, delivery: str
) -> None:
    """A view that answers with what ``identify()`` says is as personal as a page that holds it."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "DELIVERY": delivery}
    keep_token(ada())
    response = through(request_by(ada()), lambda request: JsonResponse(identify(request).as_dict(), headers=CACHEABLE))
    assert response.headers["Cache-Control"] == "private, no-store"


def test_page_that_tells_the_visitor_is_private(through: Callable[..., HttpResponseBase]) -> None:
    """So is a page that only says which visitor it is, while there is no token."""
    with fake_hubspot(DELIVERY="inline", PAGE_WAIT=0) as hubspot:
        hubspot.fail(503)
        assert dict(through(request_by(ada())).headers) == PRIVATE


@pytest.mark.parametrize("delivery", ["inline", "deferred"])
def test_other_pages_are_left_alone(
    through: Callable[..., HttpResponseBase], settings: Settings, delivery: str
) -> None:
    """The page of nobody, a deferred page and one without the tag keep the headers that the view set."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "DELIVERY": delivery}
    keep_token(ada())
    user = AnonymousUser() if delivery == "inline" else ada()
    assert dict(through(request_by(user)).headers) == {**CACHEABLE, **KEPT}
    assert dict(through(request_by(ada()), lambda _: HttpResponse("", headers=CACHEABLE)).headers) == {
        **CACHEABLE,
        **KEPT,
    }


def test_streamed_page(through: Callable[..., HttpResponseBase]) -> None:
    """A stream that was rendered before is private too."""
    keep_token(ada())
    response = through(
        request_by(ada()), lambda request: StreamingHttpResponse([render_django(request)], headers=CACHEABLE)
    )
    assert dict(response.headers) == PRIVATE


# Pages that are rendered while they are streamed


@pytest.fixture
def stream(through: Callable[..., HttpResponseBase]) -> Callable[..., str]:
    """Send a page of the request's visitor piece by piece, and return its content."""

    def parts(request: HttpRequest, arguments: dict[str, Any]) -> Iterator[str]:
        yield "<p>"
        yield render_django(request, **arguments)

    async def async_parts(request: HttpRequest, arguments: dict[str, Any]) -> AsyncIterator[str]:
        yield "<p>"
        yield render_django(request, **(arguments or {"identity": await aidentify(request)}))

    async def join(response: Any) -> str:
        return b"".join([part async for part in response]).decode()

    def send(request: HttpRequest, **arguments: Any) -> str:
        content = (parts if through is through_sync else async_parts)(request, arguments)
        response: Any = through(request, lambda _: StreamingHttpResponse(content, headers=CACHEABLE))
        page = b"".join(response).decode() if through is through_sync else async_to_sync(join)(response)
        assert ("data-subject" in page) is (response.headers["Cache-Control"] == "private, no-store")
        return str(page)

    return send


@pytest.mark.parametrize("user", [ada(), AnonymousUser()])
def test_tag_in_a_stream_renders_no_identity(
    stream: Callable[..., str], caplog: pytest.LogCaptureFixture, user: object
) -> None:
    """Its headers have been sent: the chat is there without a visitor, and one ERROR says what to do."""
    keep_token(ada())
    for _ in range(3):
        attributes = script_attributes(stream(request_by(user)))
        assert not {"data-subject", "data-identity"} & set(attributes)
        assert attributes["data-load-on"] == "page"
    (record,) = [record for record in caplog.records if record.name.startswith("hubspot_identify")]
    assert record.levelno == logging.ERROR


def test_identity_that_is_found_before_the_stream_begins_is_rendered(
    stream: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """A view that calls ``identify()`` before it returns has the headers set in time."""
    keep_token(ada())
    request = request_by(ada())
    assert "data-identity" in script_attributes(stream(request, identity=identify(request)))
    assert caplog.records == []


def test_deferred_tag_in_a_stream_is_unchanged(stream: Callable[..., str], settings: Settings) -> None:
    """A deferred page is the same, streamed or not."""
    keep_token(ada())
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "DELIVERY": "deferred"}
    assert stream(request_by(ada())) == f"<p>{render_django(request_by(ada()))}"
