"""What differs between the versions of Django, and the names of others that are not public."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import django

if TYPE_CHECKING:
    from django.core.cache.backends.base import BaseCache
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase


Request = TypeVar("Request", "HttpRequest", "HttpRequest | None")


def django_request(request: Request) -> Request:
    """The request of Django's in one of Django REST framework's, which would keep to itself what is noted on it."""
    return getattr(request, "_request", request)


def page_nonce(request: HttpRequest | None, nonce: object) -> str:
    """Return the nonce of a page: the one given, or that of django-csp, or that of Django 6.0's own middleware.

    The last two are created on first use and are false until then, so they must not be tested for truth.
    """
    if nonce is None and request is not None:
        nonce = getattr(request, "csp_nonce", None)
        if nonce is None and django.VERSION >= (6, 0):
            from django.middleware.csp import get_nonce

            nonce = get_nonce(request)
    return "" if nonce is None else str(nonce)


def keep_out_of_page_caches(request: HttpRequest) -> None:
    """Keep ``cache_page`` and ``UpdateCacheMiddleware`` from storing the response to a request.

    They look at this attribute when the response is ready; ``FetchFromCacheMiddleware`` has set it to true before.
    """
    request._cache_update_cache = False  # type: ignore[attr-defined]


def keep_out_of_logs(response: HttpResponseBase) -> None:
    """Keep Django from logging a response, which it does for each one with a status of 400 or more."""
    response._has_been_logged = True  # type: ignore[attr-defined]


@contextmanager
def fixed_cache_keys(cache: BaseCache, made: Mapping[str, str], prefix: str) -> Iterator[bool]:
    """Within the block, have a cache use the keys that another thread made, and yield whether it does.

    ``KEY_FUNCTION`` may depend on the thread. That of django-tenants reads the connection's schema.

    Args:
        cache: the instance of this thread.
        made: what ``make_key()`` returned on the other thread, by key.
        prefix: of the app's other keys, for which Django's default is used if ``KEY_FUNCTION`` fails on this thread.
    """
    from django.core.cache.backends.base import default_key_func  # not loaded with HubSpot's client

    original = getattr(cache, "key_func", default_key_func)

    def key_func(key: str, key_prefix: str, version: int) -> str:
        if key in made:
            return made[key]
        try:
            return original(key, key_prefix, version)
        except Exception:  # it is the site's function, and may find nothing on this thread that it could read
            if not key.startswith(prefix):
                raise
            return default_key_func(key, key_prefix, version)

    cache.key_func = key_func
    try:
        yield _makes(cache, made)
    finally:
        cache.key_func = original


def _makes(cache: BaseCache, made: Mapping[str, str]) -> bool:
    try:
        return all(cache.make_key(key) == made[key] for key in made)
    except Exception:  # noqa: BLE001 - a back end's own make_key(), which may depend on the thread as well
        return False
