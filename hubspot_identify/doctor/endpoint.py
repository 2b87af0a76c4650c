"""What the doctor learns by requesting the identity endpoint, through the site's own middleware."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.conf import settings
from django.test import Client, override_settings
from django.utils.translation import get_language, override
from django.utils.translation import gettext as _

from ..conf import Config
from ..delivery import endpoint_url, is_inline, path_of
from .findings import ERROR, OK, WARNING, Finding


@dataclass(frozen=True, slots=True)
class _Response:
    """A response to the doctor's request.

    Attributes:
        is_ours: whether it is the endpoint's, whatever its status.
        status: its status, or 0 if the middleware could not even be loaded.
        detail: the exception that was raised, or where the response redirects to.
    """

    is_ours: bool
    status: int
    detail: str = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, [f"HTTP {self.status}" if self.status else "", self.detail]))


def check_endpoint(config: Config, host: str) -> Iterator[Finding]:
    """Request the endpoint as an anonymous visitor, and name the middleware that responds in its place.

    Args:
        config: of the account.
        host: to request; ``""`` for the first of ``ALLOWED_HOSTS``.
    """
    endpoint = endpoint_url(config)
    if endpoint is None:
        return
    path, host = path_of(endpoint), host or allowed_host()
    with _quietly():
        response = _request(path, host, settings.MIDDLEWARE)
        culprit = None if response.is_ours else _culprit(path, host)
    if response.is_ours and response.status < 300:
        yield Finding("endpoint", OK, _("Anonymous visitors reach the endpoint {url}.").format(url=endpoint))
        return
    level = WARNING if is_inline(config, endpoint) else ERROR
    if culprit is not None:
        text = _("The middleware {middleware} responds in place of the endpoint {url} on the host {host} ({response}).")
        hint = _("Let it pass requests for this path, also those of anonymous visitors.")
    elif response.is_ours:
        text = _("The endpoint {url} fails on the host {host} ({response}).")
        hint = _("ENABLED and CHOOSE_ACCOUNT must work for anonymous visitors. The site's log has the error.")
    else:
        text = _("Requests for {url} at {host} do not reach the endpoint, even without middleware ({response}).")
        hint = _("Move the app's URLs to the top of the URLconf, or name another host with --host.")
    text = text.format(middleware=culprit, url=endpoint, host=host, response=response)
    yield Finding("endpoint", level, text, hint)


def allowed_host() -> str:
    """Return a host of the site, by ``ALLOWED_HOSTS``, or ``localhost`` if that names none."""
    names = (name.lstrip(".") for name in settings.ALLOWED_HOSTS if "*" not in name)
    host = next(names, "localhost")
    return f"www.{host}" if settings.PREPEND_WWW and not host.startswith("www.") else host


def _culprit(path: str, host: str) -> str | None:
    """Return the middleware after which requests no longer reach the endpoint, or ``None`` if they never do.

    It follows the longest part of ``MIDDLEWARE`` that works. A shorter part may fail only because it is incomplete.
    """
    middleware = list(settings.MIDDLEWARE)
    for length in reversed(range(len(middleware))):
        if _request(path, host, middleware[:length]).is_ours:
            return str(middleware[length])
    return None


def _request(path: str, host: str, middleware: list[str]) -> _Response:
    """Request a path as an anonymous visitor's browser does, through this middleware and as in production."""
    headers = {"Host": host, "X-HubSpot-Identify": "1", "Accept": "*/*"}
    hosts = settings.ALLOWED_HOSTS or ([host] if settings.DEBUG else [])
    try:
        with override_settings(MIDDLEWARE=middleware, DEBUG=False, ALLOWED_HOSTS=hosts):
            response = Client(raise_request_exception=False).get(path, secure=True, headers=headers)
    except Exception as error:  # noqa: BLE001 - it is the site's middleware
        return _Response(False, 0, type(error).__name__)
    raised = getattr(response, "exc_info", None)
    detail = raised[0].__name__ if raised else response.headers.get("Location", "")
    return _Response(_is_ours(getattr(response, "content", b"")), response.status_code, detail)


def _is_ours(content: bytes) -> bool:
    """Return whether content is the endpoint's JSON, which the endpoint also sends if it fails."""
    try:
        said = json.loads(content)
    except ValueError:
        return False
    return isinstance(said, dict) and "subject" in said


@contextmanager
def _quietly() -> Iterator[None]:
    """Log and e-mail none of the responses, and restore the language, which a middleware may change."""
    level = logging.root.manager.disable
    logging.disable()
    try:
        with override(get_language()):
            yield
    finally:
        logging.disable(level)
