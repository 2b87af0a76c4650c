"""The doctor's check of the identity endpoint, which it requests through the site's own middleware."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.conf import settings
from django.test import Client, override_settings

from ..conf import Config
from ..delivery import endpoint_url, is_inline, path_of
from .findings import ERROR, OK, WARNING, Finding


@dataclass(frozen=True, slots=True)
class _Response:
    """A response to the doctor's request.

    Attributes:
        from_endpoint: whether the endpoint sent it, with any status.
        status: the HTTP status, or 0 if the middleware could not be loaded.
        detail: the exception that was raised, or the target of a redirect.
    """

    from_endpoint: bool
    status: int
    detail: str = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, [f"HTTP {self.status}" if self.status else "", self.detail]))


def check_endpoint(config: Config, host: str) -> Iterator[Finding]:
    """Request the endpoint as an anonymous visitor, and name the middleware that responds in its place.

    Args:
        config: the settings of the account.
        host: the host to request; ``""`` for the first of ``ALLOWED_HOSTS``.
    """
    url = endpoint_url(config)
    if url is None:
        return
    path, host = path_of(url), host or allowed_host()
    with _without_logging():
        response = _request(path, host, settings.MIDDLEWARE)
        middleware = None if response.from_endpoint else _intercepting_middleware(path, host)
    if response.from_endpoint and response.status < 300:
        yield Finding("endpoint", OK, f"Anonymous visitors reach the endpoint {url}.")
        return
    if middleware is not None:
        text = f"The middleware {middleware} responds in place of the endpoint {url} on the host {host} ({response})."
        hint = "Let it pass requests for this path, including those of anonymous visitors."
    elif response.from_endpoint:
        text = f"The endpoint {url} fails on the host {host} ({response})."
        hint = "Make ENABLED and CHOOSE_ACCOUNT work for anonymous visitors. The site's log contains the error."
    else:
        text = f"Requests for {url} on the host {host} do not reach the endpoint, even without middleware ({response})."
        hint = "Move the app's URLs to the top of the URLconf, or choose another host with --host."
    yield Finding("endpoint", WARNING if is_inline(config, url) else ERROR, text, hint)


def allowed_host() -> str:
    """Return the first host in ``ALLOWED_HOSTS``, or ``localhost`` if it contains only wildcards."""
    names = (name.lstrip(".") for name in settings.ALLOWED_HOSTS if "*" not in name)
    host = next(names, "localhost")
    return f"www.{host}" if settings.PREPEND_WWW and not host.startswith("www.") else host


def _intercepting_middleware(path: str, host: str) -> str | None:
    """Return the middleware that prevents requests from reaching the endpoint, or ``None`` if it is another cause.

    The search removes middleware from the end, because a shorter list may fail only for lack of what it depends on.
    """
    middleware = list(settings.MIDDLEWARE)
    for length in reversed(range(len(middleware))):
        if _request(path, host, middleware[:length]).from_endpoint:
            return str(middleware[length])
    return None


def _request(path: str, host: str, middleware: list[str]) -> _Response:
    """Request a path like the browser of an anonymous visitor, through this middleware and without ``DEBUG``."""
    headers = {"Host": host, "X-HubSpot-Identify": "1", "Accept": "*/*"}
    hosts = settings.ALLOWED_HOSTS or ([host] if settings.DEBUG else [])
    try:
        with override_settings(MIDDLEWARE=middleware, DEBUG=False, ALLOWED_HOSTS=hosts):
            response = Client(raise_request_exception=False).get(path, secure=True, headers=headers)
    except Exception as error:  # noqa: BLE001 - the site's middleware may raise anything
        return _Response(False, 0, type(error).__name__)
    raised = getattr(response, "exc_info", None)
    detail = raised[0].__name__ if raised else response.headers.get("Location", "")
    return _Response(_is_from_endpoint(getattr(response, "content", b"")), response.status_code, detail)


def _is_from_endpoint(content: bytes) -> bool:
    """Return whether content is the endpoint's JSON, which the endpoint sends even if it fails."""
    try:
        data = json.loads(content)
    except ValueError:
        return False
    return isinstance(data, dict) and "subject" in data


@contextmanager
def _without_logging() -> Iterator[None]:
    """Disable logging, because the search for the middleware would fill the site's log and send mail to its admins."""
    level = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(level)
