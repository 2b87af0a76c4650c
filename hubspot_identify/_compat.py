"""What differs between the versions of Django, and the names of others that are not public."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import django

if TYPE_CHECKING:
    from django.http import HttpRequest


Request = TypeVar("Request", "HttpRequest", "HttpRequest | None")


def unwrapped(request: Request) -> Request:
    """The request of Django's in one of Django REST framework's, which would keep to itself what is noted on it."""
    return getattr(request, "_request", request)


def get_django_nonce(request: HttpRequest) -> object | None:
    """The nonce of Django's own CSP middleware, which came with Django 6.0."""
    if django.VERSION < (6, 0):
        return None
    from django.middleware.csp import get_nonce

    return get_nonce(request)


def keep_out_of_page_caches(request: HttpRequest) -> None:
    """Keep ``cache_page`` and ``UpdateCacheMiddleware`` from storing the response to a request.

    They look at this attribute when the response is ready; ``FetchFromCacheMiddleware`` has set it to true before.
    """
    request._cache_update_cache = False  # type: ignore[attr-defined]
