"""Middleware that keeps pages that depend on their visitor out of every cache between the site and the visitor.

These are pages with an inline identity, pages for which ``ENABLED`` is a callable, and pages without a chat because a
callable failed. All other pages are the same for every visitor, apart from the account that ``CHOOSE_ACCOUNT`` returns.
Sites that have only such pages do not need the middleware.
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


def mark_private(request: HttpRequest) -> None:
    """Record that the response to a request depends on its visitor, without containing an identity."""
    request._hubspot_private = True  # type: ignore[attr-defined]


def streams_without_identity(request: HttpRequest) -> bool:
    """Return whether the page is streamed with headers that were sent for a page without an identity."""
    return getattr(request, "_hubspot_streams_unidentified", False)


class IdentifiedPageMiddleware(MiddlewareMixin):
    """Sets ``Cache-Control`` and ``Vary`` on pages that depend on their visitor, whatever the view has set.

    Pages that contain an identity get ``private, no-store`` and ``Vary: *``, because a service worker may store pages
    despite ``no-store``, but not with this header. Pages whose chat depends on a callable ``ENABLED`` get
    ``private, no-cache``: the visitor's browser may store them, but asks the site before it uses them again.

    Put it into ``MIDDLEWARE`` twice, first and last. As the first, it overrides the headers of all other middleware. As
    the last, it sets them before a cache among the middleware can store the page.

    The headers of a streamed page are sent before its content is rendered. If the tag is rendered only then, it renders
    no identity.
    """

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Make the response private if it depends on its visitor. A second call changes nothing."""
        is_identified = getattr(request, "_hubspot_identified", False)
        if is_identified or getattr(request, "_hubspot_private", False):
            for name in [name for name in response.headers if _CACHE_HEADERS.fullmatch(name)]:
                del response.headers[name]
            is_stored = not is_identified and "no-store" not in response.headers.get("Cache-Control", "")
            response.headers["Cache-Control"] = "private, no-cache" if is_stored else "private, no-store"
        if is_identified:
            response.headers["Vary"] = "*"
        if response.streaming and not is_identified:
            request._hubspot_streams_unidentified = True  # type: ignore[attr-defined]
        return response
