"""How an identity reaches the browser: from the endpoint (deferred), or in the page itself (inline).

An inline identity is written only into a page that is shown to its visitor alone.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING
from urllib.parse import unquote

from django.conf import settings
from django.template import TemplateSyntaxError
from django.urls import NoReverseMatch, get_resolver, get_script_prefix, get_urlconf, resolve, reverse
from django.utils.translation import get_language

from ._compat import keep_out_of_page_caches
from ._fragment_caches import enclosing_cache
from .logs import log_throttled
from .middleware import streams_without_identity

if TYPE_CHECKING:
    from django.http import HttpRequest

    from .conf import Config

logger = logging.getLogger(__name__)

#: Not from ``request.headers``, which takes ten times as long to build.
_PURPOSE_HEADERS = ("HTTP_SEC_PURPOSE", "HTTP_X_SEC_PURPOSE", "HTTP_PURPOSE", "HTTP_X_PURPOSE", "HTTP_X_MOZ")


#: The URL pattern that includes the app's URLs, for hints.
ROUTE = 'path("hubspot/", include("hubspot_identify.urls"))'


def endpoint_url(config: Config, urlconf: str | None = None) -> str | None:
    """Return the URL of an account's identity endpoint, or ``None`` if the URLconf does not include the app's URLs.

    Args:
        config: the settings of the account.
        urlconf: ``None`` for the one of the request, which middleware may have chosen by host, or ``ROOT_URLCONF``.
    """
    arguments = {"account": config.account} if config.account else None
    try:
        return reverse("hubspot_identify:identity", urlconf, kwargs=arguments)
    except NoReverseMatch:
        return None


def url_context() -> tuple[object, ...]:
    """Return everything that the URL of an account's endpoint depends on."""
    return get_resolver(get_urlconf()), get_script_prefix(), get_language()


def resolves_to_app(endpoint: str) -> bool:
    """Return whether a URL leads to the app, and not to a pattern that precedes it in the URLconf."""
    path = unquote(path_of(endpoint))  # reverse() quotes the path, and resolve() expects it unquoted.
    return "hubspot_identify" in resolve(path).app_names


def path_of(endpoint: str) -> str:
    """Return the path of a URL below the script prefix."""
    return f"/{endpoint.removeprefix(get_script_prefix())}"


def is_routed(config: Config) -> bool:
    """Return whether ``ROOT_URLCONF`` includes the app's URLs. The URLconf of the request does not matter."""
    return endpoint_url(config, settings.ROOT_URLCONF) is not None


def is_inline(config: Config) -> bool:
    """Return whether pages contain the identity: if ``DELIVERY`` says so, or if the site does not route the app's URLs.

    The result is the same for all hosts of a site. If the URLconf of one host lacks the app's URLs, its pages do not
    contain the identity, because they may be cached.
    """
    return config.delivery == "inline" or (config.delivery is None and not is_routed(config))


def log_missing_endpoint() -> None:
    """Log that the URLconf of the request lacks the app's URLs, although the site routes them."""
    urlconf = get_urlconf()
    name = urlconf if isinstance(urlconf, str) else getattr(urlconf, "__name__", "of the request")
    log_throttled(
        logger,
        logging.ERROR,
        "The URLconf %s does not include the app's URLs, so its pages identify no visitor in the chat. Add %s to it, "
        "as in ROOT_URLCONF.",
        name,
        ROUTE,
        reason=name,
        every=math.inf,
    )


def refuse_compressor() -> None:
    """Raise an error if django-compressor encloses the tag while it is rendered, in an include or a Jinja template."""
    name = enclosing_cache() or ""
    if "compress" in name.lower():
        raise TemplateSyntaxError(
            f"The hubspot_identify tag is inside {name}, which removes the attributes of its element, so there "
            "is no chat. Move the tag out of the block."
        )


def may_contain_identity(request: HttpRequest | None) -> bool:
    """Return whether the page may contain an identity, and keep it out of page caches. Log what prevents an identity.

    Args:
        request: of the page; ``None`` if there is none, as on some error pages.
    """
    is_shown_as_sent = request is None or not (_is_prefetch(request) or _is_streamed(request))
    return may_depend_on_visitor(request) and is_shown_as_sent


def may_depend_on_visitor(request: HttpRequest | None) -> bool:
    """Keep the page out of page caches, and return whether no fragment cache encloses the tag. Log one that does."""
    if request is not None:
        keep_out_of_page_caches(request)
    cache = enclosing_cache()
    if cache is None:
        return True
    log_throttled(
        logger,
        logging.ERROR,
        "The hubspot_identify tag is inside %s, whose output may be served to other visitors, so nothing that depends "
        "on the visitor is rendered. Move the tag outside, or use deferred delivery if ENABLED is not a callable.",
        cache,
        reason=cache,
    )
    return False


def _is_prefetch(request: HttpRequest) -> bool:
    """Return whether the browser fetches the page to show it later, perhaps after a change of user.

    ``Sec-Purpose`` is the standard, and may be ``prefetch;prerender``. Older browsers, Turbo and htmx send others.
    """
    purposes = " ".join(request.META.get(name, "") for name in _PURPOSE_HEADERS).lower()
    return "prefetch" in purposes or "preview" in purposes or "HTTP_HX_PRELOADED" in request.META


def _is_streamed(request: HttpRequest) -> bool:
    """Return whether the headers of the page were sent without ``Cache-Control: private``, and log that."""
    if not streams_without_identity(request):
        return False
    log_throttled(
        logger,
        logging.ERROR,
        "The hubspot_identify tag is rendered while the page is streamed. Its headers have been sent without "
        "Cache-Control: private, so no identity is rendered. Render the part with the tag before the response is "
        "returned, or use deferred delivery.",
    )
    return True


def in_event_loop() -> bool:
    """Return whether the tag is rendered in an event loop, where it cannot read user and cache, and log that."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    log_throttled(
        logger,
        logging.WARNING,
        "The template of an asynchronous view is rendered without an identity. Pass "
        "identity=await services.aidentify(request) to the tag, or use deferred delivery.",
    )
    return True
