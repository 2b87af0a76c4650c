"""Keeps pages with an inline identity out of every cache between the site and its visitor.

Sites with deferred delivery don't need it: their pages hold nothing personal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from asgiref.sync import iscoroutinefunction, markcoroutinefunction

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase


#: Headers that caches between the site and its visitors go by in place of ``Cache-Control``.
_OF_CACHES = re.compile(
    r"(.+-)?(cdn-cache-control|surrogate-control)|x-(accel-expires|litespeed-cache-control|cache-ttl)"
    r"|edge-control|expires",
    re.IGNORECASE,
)


def mark_identified(request: HttpRequest) -> None:
    """Note that the page of a request says who its visitor is."""
    request._hubspot_identified = True  # type: ignore[attr-defined]


def is_marked_too_late(request: HttpRequest) -> bool:
    """Return whether the page of a request is being streamed with headers that were set for a page without identity."""
    return getattr(request, "_hubspot_streams_unidentified", False)


class IdentifiedPageMiddleware:
    """Sends ``Cache-Control: private, no-store`` with pages that contain an identity, whatever the view had set.

    Put it into ``MIDDLEWARE`` twice, first and last. As the first, it sees what all others did to the headers. As the
    last, it sets them before a cache among the middleware can store the page.

    The headers of a streamed page are sent before its content is rendered. If the tag is rendered only then, it renders
    no identity.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self.is_async:
            return self.__acall__(request)
        return _made_private(request, self.get_response(request))  # type: ignore[arg-type]

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        return _made_private(request, await self.get_response(request))  # type: ignore[misc]


def _made_private(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Set the headers of an identified page. Each call does the same, however often the middleware is installed."""
    if getattr(request, "_hubspot_identified", False):
        for name in [name for name in response.headers if _OF_CACHES.fullmatch(name)]:
            del response.headers[name]
        response.headers["Cache-Control"] = "private, no-store"
    elif response.streaming:
        request._hubspot_streams_unidentified = True  # type: ignore[attr-defined]
    return response
