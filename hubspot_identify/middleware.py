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


class IdentifiedPageMiddleware:
    """Sends ``Cache-Control: private, no-store`` with pages that hold an identity, whatever the view had set.

    Put it first in ``MIDDLEWARE``, so that nothing changes the header after it. It can't help a page that is rendered
    while it is streamed: that one's headers are gone before the tag is reached.
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
    if getattr(request, "_hubspot_identified", False):
        for name in [name for name in response.headers if _OF_CACHES.fullmatch(name)]:
            del response.headers[name]
        response.headers["Cache-Control"] = "private, no-store"
    return response
