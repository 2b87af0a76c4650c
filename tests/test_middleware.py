"""``IdentifiedPageMiddleware``: only the visitor's own browser may store a page with an identity."""

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
PRIVATE = {**KEPT, "Cache-Control": "private, no-store", "Vary": "*"}


@pytest.fixture(autouse=True)
def inline(settings: Settings) -> None:
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "DELIVERY": "inline"}


def page(request: HttpRequest) -> HttpResponse:
    """A view whose headers allow every cache to store the page."""
    return HttpResponse(render_django(request), headers=CACHEABLE)


def through_sync(request: HttpRequest, view: Callable[[HttpRequest], Any] = page) -> HttpResponseBase:
    """Pass a request through the middleware in a synchronous chain."""
    middleware = IdentifiedPageMiddleware(view)
    assert not iscoroutinefunction(middleware)
    response = middleware(request)
    assert isinstance(response, HttpResponseBase)
    return response


def through_async(request: HttpRequest, view: Callable[[HttpRequest], Any] = page) -> HttpResponseBase:
    """Pass a request through the middleware in an asynchronous chain."""
    response: HttpResponseBase = view(request)

    async def async_view(request: HttpRequest) -> HttpResponseBase:
        return response

    middleware: Any = IdentifiedPageMiddleware(async_view)
    assert iscoroutinefunction(middleware)
    passed: HttpResponseBase = async_to_sync(middleware)(request)
    return passed


Through = Callable[..., HttpResponseBase]


@pytest.fixture(params=[through_sync, through_async])
def through(request: pytest.FixtureRequest) -> Through:
    """The middleware in a synchronous and in an asynchronous chain."""
    chain: Through = request.param
    return chain


def test_identified_page_is_private(through: Through) -> None:
    """A page with an identity is private, whatever the view had set for browsers and CDNs."""
    keep_token(ada())
    assert dict(through(request_by(ada())).headers) == PRIVATE


@pytest.mark.parametrize("delivery", ["inline", "deferred"])
def test_view_that_returns_an_identity_is_private(settings: Settings, delivery: str) -> None:
    """The response of a view that returns the result of ``identify()`` is private with every delivery."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "DELIVERY": delivery}
    keep_token(ada())
    response = through_sync(
        request_by(ada()), lambda request: JsonResponse(identify(request).as_dict(), headers=CACHEABLE)
    )
    assert response.headers["Cache-Control"] == "private, no-store"


def test_page_with_only_a_subject_is_private() -> None:
    """A page that names the visitor by subject, because there is no token, is private as well."""
    with fake_hubspot(DELIVERY="inline", PAGE_WAIT=0) as hubspot:
        hubspot.fail(503)
        assert dict(through_sync(request_by(ada())).headers) == PRIVATE


@pytest.mark.parametrize("allowed", [True, False])
def test_page_that_depends_on_a_callable_is_private(settings: Settings, through: Through, allowed: bool) -> None:
    """If ``ENABLED`` is a callable, only the browser may store the page, and only what the view allows."""
    keep_token(ada())
    settings.HUBSPOT_IDENTIFY = {
        **settings.HUBSPOT_IDENTIFY,
        "DELIVERY": "deferred",
        "ENABLED": lambda request: allowed,
    }
    revalidated = {**KEPT, "Cache-Control": "private, no-cache"}
    assert dict(through(request_by(ada())).headers) == revalidated

    def no_store(request: HttpRequest) -> HttpResponse:
        return HttpResponse(render_django(request), headers={**CACHEABLE, "Cache-Control": "no-store"})

    assert dict(through(request_by(ada()), no_store).headers) == {**KEPT, "Cache-Control": "private, no-store"}
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "DELIVERY": "inline"}
    assert dict(through(request_by(ada())).headers) == (PRIVATE if allowed else revalidated)


@pytest.mark.parametrize("delivery", ["inline", "deferred"])
def test_page_without_identity_keeps_its_headers(settings: Settings, delivery: str) -> None:
    """An anonymous visitor's page, a deferred page and a page without the tag keep the headers of the view."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "DELIVERY": delivery}
    keep_token(ada())
    user = AnonymousUser() if delivery == "inline" else ada()
    unchanged = {**CACHEABLE, **KEPT}
    assert dict(through_sync(request_by(user)).headers) == unchanged
    assert dict(through_sync(request_by(ada()), lambda _: HttpResponse("", headers=CACHEABLE)).headers) == unchanged


def test_stream_that_is_rendered_early_is_private(through: Through) -> None:
    """A streamed page whose content was rendered before the response was returned is private."""
    keep_token(ada())
    response = through(
        request_by(ada()), lambda request: StreamingHttpResponse([render_django(request)], headers=CACHEABLE)
    )
    assert dict(response.headers) == PRIVATE


# Pages that are rendered while they are streamed


@pytest.fixture
def stream(through: Through) -> Callable[..., str]:
    """Stream the page of the request's visitor in two parts, and return its content."""

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


def test_tag_in_a_stream_renders_no_identity(stream: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    """The headers have been sent, so the page has the chat without a visitor, and one ERROR is logged."""
    keep_token(ada())
    for user in (ada(), AnonymousUser(), ada()):
        attributes = script_attributes(stream(request_by(user)))
        assert not {"data-subject", "data-identity"} & set(attributes)
        assert attributes["data-load-on"] == "page"
    (record,) = [record for record in caplog.records if record.name.startswith("hubspot_identify")]
    assert record.levelno == logging.ERROR


def test_identity_found_before_the_stream_begins_is_rendered(
    stream: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """If the view calls ``identify()`` before it returns, the headers are set in time."""
    keep_token(ada())
    request = request_by(ada())
    assert "data-identity" in script_attributes(stream(request, identity=identify(request)))
    assert caplog.records == []


def test_deferred_tag_in_a_stream_is_unchanged(stream: Callable[..., str], settings: Settings) -> None:
    """With deferred delivery a streamed page has the usual element."""
    keep_token(ada())
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "DELIVERY": "deferred"}
    assert stream(request_by(ada())) == f"<p>{render_django(request_by(ada()))}"
