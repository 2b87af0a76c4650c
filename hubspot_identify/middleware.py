"""Middleware that keeps pages with an inline identity out of every cache between the site and its visitor.

Sites with deferred delivery do not need it, because their pages contain nothing personal.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from django.utils.deprecation import MiddlewareMixin

if TYPE_CHECKING:
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase


#: Headers that caches between the site and its visitors obey instead of ``Cache-Control``.
_CACHE_HEADERS = re.compile(
    r"(.+-)?(cdn-cache-control|surrogate-control)|x-(accel-expires|litespeed-cache-control|cache-ttl)"
    r"|edge-control|expires",
    re.IGNORECASE,
)


def mark_identified(request: HttpRequest) -> None:
    """Record that the response to a request identifies its visitor."""
    request._hubspot_identified = True  # type: ignore[attr-defined]


def streams_without_identity(request: HttpRequest) -> bool:
    """Return whether the page is streamed with headers that were sent for a page without an identity."""
    return getattr(request, "_hubspot_streams_unidentified", False)


class IdentifiedPageMiddleware(MiddlewareMixin):
    """Sets ``Cache-Control: private, no-store`` on pages that contain an identity, whatever the view has set.

    Put it into ``MIDDLEWARE`` twice, first and last. As the first, it overrides the headers of all other middleware. As
    the last, it sets them before a cache among the middleware can store the page.

    The headers of a streamed page are sent before its content is rendered. If the tag is rendered only then, it renders
    no identity.
    """

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Make the response private if it identifies its visitor. A second call changes nothing."""
        if getattr(request, "_hubspot_identified", False):
            for name in [name for name in response.headers if _CACHE_HEADERS.fullmatch(name)]:
                del response.headers[name]
            response.headers["Cache-Control"] = "private, no-store"
        elif response.streaming:
            request._hubspot_streams_unidentified = True  # type: ignore[attr-defined]
        return response
