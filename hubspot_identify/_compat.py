"""Differences between the versions of Django, and private names of Django and other packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import django

if TYPE_CHECKING:
    from django.core.cache.backends.base import BaseCache
    from django.http import HttpRequest
    from django.http.response import HttpResponseBase


Request = TypeVar("Request", "HttpRequest", "HttpRequest | None")


def django_request(request: Request) -> Request:
    """Return Django's request of one of Django REST framework's. Attributes set on the latter do not reach Django."""
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
def fixed_cache_keys(cache: BaseCache, made: Mapping[str, str], prefix: str) -> Iterator[None]:
    """Within the block, have a cache use the keys that another thread made.

    ``KEY_FUNCTION`` may depend on the thread, and so may a ``make_key()`` of the back end. django-tenants reads the
    connection's schema. Both are replaced: Django's back ends call the method, and django-redis calls the function.

    Args:
        cache: the instance of this thread.
        made: what ``make_key()`` returned on the other thread, by key.
        prefix: of the app's other keys, for which Django's default is used if the original fails on this thread.
    """
    from django.core.cache.backends.base import default_key_func  # not loaded with HubSpot's client

    def fixed(original: Callable[..., str]) -> Callable[..., str]:
        def make(key: str, *args: Any, **options: Any) -> str:
            if key in made:
                return made[key]
            try:
                return original(key, *args, **options)
            except Exception:  # it is the site's function, and may find nothing on this thread that it could read
                if not key.startswith(prefix):
                    raise
                return default_key_func(key, cache.key_prefix, cache.version)

        return make

    key_func = cache.key_func
    cache.key_func, cache.make_key = fixed(key_func), fixed(cache.make_key)  # type: ignore[method-assign]
    try:
        yield
    finally:
        cache.key_func = key_func
        vars(cache).pop("make_key", None)  # the method of the class remains
