"""The doctor's requests for the identity endpoint through the site's own middleware, and its check of the response."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.test import Client, override_settings

from .._compat import page_nonce
from ..conf import Config
from ..delivery import ROUTE, endpoint_url, is_inline, path_of
from .findings import ERROR, OK, WARNING, Finding

NONCE = "hubspot_identify.nonce"  # in the META of the doctor's request


@dataclass(frozen=True, slots=True)
class SiteResponse:
    """A response to the doctor's request.

    Attributes:
        host: the host of the request.
        from_endpoint: whether the endpoint sent it, with any status.
        status: the HTTP status, or 0 if the middleware could not be loaded.
        detail: the exception that was raised, or the target of a redirect.
        urlconf: the URLconf that middleware chose for the host, or ``""`` for ``ROOT_URLCONF``.
        policy: its Content-Security-Policy.
        reports_only: whether it has a Content-Security-Policy-Report-Only.
        nonce: the nonce of the tag in a page with this policy.
    """

    host: str
    from_endpoint: bool
    status: int
    detail: str = ""
    urlconf: str = ""
    policy: str = ""
    reports_only: bool = False
    nonce: str = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, [f"HTTP {self.status}" if self.status else "", self.detail]))


def check_endpoint(config: Config, response: SiteResponse) -> Iterator[Finding]:
    """Check that anonymous visitors reach the endpoint, and name what responds in its place.

    Args:
        config: the settings of the account.
        response: of :func:`request_site`.
    """
    url = endpoint_url(config)
    if url is None:
        return
    host = response.host
    urlconf = f" (URLconf {response.urlconf})" if response.urlconf else ""
    if response.from_endpoint and response.status < 300:
        yield Finding("endpoint", OK, f"Anonymous visitors reach the endpoint {url} on the host {host}{urlconf}.")
        return
    if response.from_endpoint:
        text = f"ENABLED or CHOOSE_ACCOUNT fails for an anonymous visitor on the host {host}{urlconf} ({response})."
        hint = "Fix the callable for anonymous visitors. To find the error in the log, load a page with the tag."
        yield Finding("enabled", ERROR, text, hint)
        return
    if response.urlconf and endpoint_url(config, response.urlconf) is None:
        text = f"The host {host} has the URLconf {response.urlconf}, which does not include the app's URLs."
        hint = f"Add {ROUTE} to urlpatterns in {response.urlconf}."
    elif middleware := _intercepting_middleware(config, host):
        text = f"The middleware {middleware} responds in place of the endpoint {url} on the host {host} ({response})."
        hint = "Let it pass requests for this path, including those of anonymous visitors."
    else:
        text = f"Requests for {url} on the host {host} do not reach the endpoint, even without middleware ({response})."
        hint = "Move the app's URLs to the top of the URLconf, or choose another host with --host."
    yield Finding("endpoint", WARNING if is_inline(config) else ERROR, text, hint)


def request_site(config: Config, host: str, middleware: list[str] | None = None) -> SiteResponse:
    """Request the endpoint, or a page if there is none, as an anonymous visitor. Nothing is logged.

    Args:
        config: the settings of the account.
        host: the host to request; ``""`` for the first of ``ALLOWED_HOSTS``.
        middleware: the middleware to use; ``None`` for that of the site.
    """
    url = endpoint_url(config)
    with _without_logging():
        path = path_of(url) if url else "/"
        return _request(path, host or allowed_host(), settings.MIDDLEWARE if middleware is None else middleware)


def allowed_host() -> str:
    """Return the first host in ``ALLOWED_HOSTS``, or ``localhost`` if it contains only wildcards."""
    names = (name.lstrip(".") for name in settings.ALLOWED_HOSTS if "*" not in name)
    host = next(names, "localhost")
    return f"www.{host}" if settings.PREPEND_WWW and not host.startswith("www.") else host


def _intercepting_middleware(config: Config, host: str) -> str | None:
    """Return the middleware that prevents requests from reaching the endpoint, or ``None`` if it is another cause.

    The search removes middleware from the end, because a shorter list may fail only for lack of what it depends on.
    """
    middleware = list(settings.MIDDLEWARE)
    for length in reversed(range(len(middleware))):
        if request_site(config, host, middleware[:length]).from_endpoint:
            return str(middleware[length])
    return None


def creates_nonce(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[HttpRequest], HttpResponseBase]:
    """Create a nonce as the tag does, because the policy contains a nonce only if the response uses it."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        request.META[NONCE] = page_nonce(request, None)
        return get_response(request)

    return middleware


def _request(path: str, host: str, middleware: Sequence[str]) -> SiteResponse:
    """Request a path like the browser of an anonymous visitor, through this middleware and without ``DEBUG``."""
    headers = {"Host": host, "X-HubSpot-Identify": "1", "Accept": "*/*"}
    hosts = settings.ALLOWED_HOSTS or ([host] if settings.DEBUG else [])
    middleware = [*middleware, f"{__name__}.{creates_nonce.__name__}"]
    try:
        with override_settings(MIDDLEWARE=middleware, DEBUG=False, ALLOWED_HOSTS=hosts):
            response = Client(raise_request_exception=False).get(path, secure=True, headers=headers)
    except Exception as error:  # noqa: BLE001 - the site's middleware may raise anything
        return SiteResponse(host, False, 0, type(error).__name__)
    raised = getattr(response, "exc_info", None)
    request = response.wsgi_request
    urlconf = getattr(request, "urlconf", None)
    return SiteResponse(
        host,
        _is_from_endpoint(getattr(response, "content", b"")),
        response.status_code,
        raised[0].__name__ if raised else response.headers.get("Location", ""),
        urlconf if isinstance(urlconf, str) and urlconf != settings.ROOT_URLCONF else "",
        response.headers.get("Content-Security-Policy", ""),
        "Content-Security-Policy-Report-Only" in response.headers,
        request.META.get(NONCE, ""),
    )


def _is_from_endpoint(content: bytes) -> bool:
    """Return whether content is the endpoint's JSON, which the endpoint sends even if it fails."""
    try:
        data = json.loads(content)
    except ValueError:
        return False
    return isinstance(data, dict) and bool({"subject", "enabled"} & data.keys())


@contextmanager
def _without_logging() -> Iterator[None]:
    """Disable logging, because the search for the middleware would fill the site's log and send mail to its admins."""
    level = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(level)
